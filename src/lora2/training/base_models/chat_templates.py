"""Messages as the chat template of a tokenizer writes them."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lora2.data.tasks.writing_task import Message
from lora2.errors import UserError
from lora2.support.error_text import clause_of

# A template is code, which raises what Python's operators raise.
_TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# No template writes this of its own accord.
_ANSWER = "An answer to be found again"
# The option and the owner, with which a sentence about a template begins.
_OF_MODEL = "model: its chat template"


def before_answer(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    source: str,
    template: str = _OF_MODEL,
) -> str:
    """Return messages as a text that ends where an answer begins.

    source: where the messages are, as in "the rows to answer"; template: how to name it.

    Raises:
        UserError: the template refuses them.
    """
    try:
        written = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    except _TEMPLATE_ERRORS as error:
        raise UserError(refused_by_template(error, source, template)) from error
    return str(written)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special token that a template writes right after an answer; empty without one."""
    messages = [
        {"role": "user", "content": "A question"},
        {"role": "assistant", "content": _ANSWER},
    ]
    try:
        written = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except _TEMPLATE_ERRORS:
        return []
    _, found, behind = written.rpartition(_ANSWER)
    special = {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special
    }
    written_behind = [each for each in special if found and behind.lstrip().startswith(each)]
    return [special[max(written_behind, key=len)]] if written_behind else []


def is_of_template(error: BaseException) -> bool:
    """Whether an error was raised by a chat template, or while it was read."""
    frames = traceback.walk_tb(error.__traceback__)
    # Jinja gives its compiled code this name in place of a file's.
    return isinstance(error, TemplateError) or any(
        frame.f_code.co_filename == "<template>" for frame, _ in frames
    )


def refused_by_template(error: Exception, source: str, template: str = _OF_MODEL) -> str:
    """Return the sentence for messages in `source` that a chat template refuses."""
    return (
        f"{template} refuses messages in {source} ({clause_of(error)}); write them as it expects."
    )
