"""Whether what is given as a model is one."""

from __future__ import annotations

from torch import nn

from lora2.errors import UserError


def check_is_module(model: object) -> None:
    """Check that a model is a module of torch.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model: {type(model).__name__} is not a torch.nn.Module; give the model itself."
        )
