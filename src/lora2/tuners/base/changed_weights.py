"""Calls a base layer with other weights than its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lora2.errors import UserError


def call_with(layer: nn.Module, weights: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Return the output of the layer with these tensors in the place of its own, by name.

    Raises:
        UserError: a weight is parametrized, so that no tensor can take its place.
    """
    with _in_place(layer, weights):
        return layer(*args, **kwargs)


# `torch.func.functional_call` replaces parameters. FSDP1 and DataParallel have plain tensors in
# front of them, as attributes, which would still be read.
@contextmanager
def _in_place(layer: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    replaced: list[tuple[nn.Module, str, Tensor | None]] = []
    try:
        for path, weight in weights.items():
            inner, _, name = path.rpartition(".")
            owner = layer.get_submodule(inner)
            if isinstance(getattr(type(owner), name, None), property):
                raise UserError(
                    f"The {name} of a {type(owner).__name__} is parametrized, and its layer cannot "
                    "be adapted then: call torch.nn.utils.parametrize.remove_parametrizations on "
                    "it, or leave the layer out of target_modules."
                )
            replaced.append((owner, name, vars(owner).get(name)))
            object.__setattr__(owner, name, weight)
        yield
    finally:
        for owner, name, old in replaced:
            if old is None:
                del vars(owner)[name]
            else:
                object.__setattr__(owner, name, old)
