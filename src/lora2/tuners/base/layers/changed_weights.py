"""Calls a base layer with other weights than its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lora2.errors import UserError


@dataclass(frozen=True)
class ChangedWeight:
    """A tensor for the place of a module's weight, for one forward pass.

    Raises:
        UserError: the weight is parametrized, and no tensor can take its place.
    """

    owner: nn.Module
    name: str
    values: Tensor

    def __post_init__(self) -> None:
        kind = type(self.owner)
        if isinstance(getattr(kind, self.name, None), property):
            raise UserError(
                f"The {self.name} of a {kind.__name__} is parametrized, and its layer cannot be "
                "adapted then: call torch.nn.utils.parametrize.remove_parametrizations on it, or "
                "leave the layer out of target_modules."
            )


def call_with(layer: nn.Module, weights: Sequence[ChangedWeight], *args: Any, **kwargs: Any) -> Any:
    """Return the output of the layer with these weights of it, or of modules inside it."""
    with _in_place(weights):
        return layer(*args, **kwargs)


# `torch.func.functional_call` replaces parameters. FSDP1 and DataParallel have plain tensors in
# front of them, as attributes, which would still be read.
@contextmanager
def _in_place(weights: Sequence[ChangedWeight]) -> Iterator[None]:
    own = [vars(weight.owner).get(weight.name) for weight in weights]
    for weight in weights:
        object.__setattr__(weight.owner, weight.name, weight.values)
    try:
        yield
    finally:
        for weight, tensor in zip(weights, own, strict=True):
            if tensor is None:
                del vars(weight.owner)[weight.name]
            else:
                object.__setattr__(weight.owner, weight.name, tensor)
