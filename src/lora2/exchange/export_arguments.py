"""Checks of what is given to an export besides the model and its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lora2.errors import UserError


def check_tokenizer(tokenizer: Any) -> None:
    """Check that a tokenizer, or a processor, can be saved; None is none.

    Raises:
        UserError: it is something else, such as its name.
    """
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise UserError(
            f"tokenizer={tokenizer!r} is a {type(tokenizer).__name__} and cannot be saved; give "
            "what AutoTokenizer.from_pretrained returns."
        )


def check_batch(batch: Any) -> None:
    """Check that a batch is one tensor, or several by name; None is none.

    Raises:
        UserError: it is something else.
    """
    if batch is not None and not isinstance(batch, Tensor | Mapping):
        raise UserError(
            f"batch: a {type(batch).__name__} is no input of a model; give a tensor, or a "
            "dictionary of the model's inputs."
        )
