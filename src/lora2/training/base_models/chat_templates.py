"""Messages as the chat template of a tokenizer writes them."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lora2.data.tasks.text_task import Message
from lora2.errors import UserError
from lora2.support.error_text import one_line

# A template is code, which raises what Python's operators raise.
TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def before_answer(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], source: str
) -> str:
    """Return messages as a text that ends where an answer begins.

    source: where the messages are, as in "the rows to answer".

    Raises:
        UserError: the template refuses them.
    """
    try:
        written = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    except TEMPLATE_ERRORS as error:
        raise UserError(refused_by_template(error, source)) from error
    return str(written)


def is_of_template(error: BaseException) -> bool:
    """Whether an error was raised by a chat template, or while it was read."""
    frames = traceback.walk_tb(error.__traceback__)
    # Jinja gives its compiled code this name in place of a file's.
    return isinstance(error, TemplateError) or any(
        frame.f_code.co_filename == "<template>" for frame, _ in frames
    )


def refused_by_template(error: Exception, source: str) -> str:
    """Return the sentence for messages in `source` that the model's chat template refuses."""
    return (
        f"model: its chat template refuses messages in {source} ({one_line(error)}); "
        "write them as it expects."
    )
