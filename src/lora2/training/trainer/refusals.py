"""What refuses an option of the trainer, and how it is said."""

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
"""What transformers, accelerate and the packages that they load raise for an option."""


def sentence_of(error: Exception) -> str:
    """Return what an exception says, as a sentence."""
    return f"{clause_of(error)}."
