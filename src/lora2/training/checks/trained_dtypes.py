"""Checks that no trained parameter is in half precision, in which most steps are lost."""

from __future__ import annotations

from torch import nn

from lora2.errors import UserError
from lora2.mathematics.precision import HALF_PRECISION


def check_trained_dtypes(model: nn.Module, dtype: str, label: str) -> None:
    """Check that nothing is trained in half precision.

    Args:
        model: it, ready to train.
        dtype: what `--dtype` says.
        label: the method, for messages.

    Raises:
        UserError: something is.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in HALF_PRECISION:
            raise UserError(
                f"dtype={dtype}: {label} would train {name} in it, and most steps would be lost, "
                f"because {dtype} has too few digits; leave dtype out, or write --bf16 True in its "
                "place."
            )
