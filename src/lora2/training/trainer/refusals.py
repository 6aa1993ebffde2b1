"""The errors with which other packages refuse an option of the trainer, as sentences."""

from __future__ import annotations

from lora2.support.error_text import clause_of

REFUSALS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""transformers, accelerate and the packages that they load raise these for an option."""


def sentence_of(error: Exception) -> str:
    """Return what an exception says, as a sentence."""
    return f"{clause_of(error)}."
