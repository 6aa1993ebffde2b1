"""Batches in which each row has an adapter of its own, or none."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.experts import ExpertsLayer
from lora2.tuners.base.names.adapter_names import BASE_ONLY


def check_mixed_batch(
    model: nn.Module, known_adapters: Collection[str], adapter_names: list[str]
) -> None:
    """Check that a model can take the adapters of the rows of a batch.

    Raises:
        UserError: the weights of experts are adapted.
        ValueError: the model is in training mode, or has no adapter of a name.
    """
    if model.training:
        raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
    unknown = set(adapter_names) - {BASE_ONLY} - set(known_adapters)
    if unknown:
        raise ValueError(
            f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}"
        )
    if any(isinstance(module, ExpertsLayer) for module in model.modules()):
        raise UserError(
            "adapter_names: one batch cannot have several adapters where the weights of "
            "experts are adapted, since all rows share them; call the model once for each "
            "adapter, after set_adapter."
        )


@contextmanager
def adapter_of_each_row(model: nn.Module, adapter_names: list[str], beams: int) -> Iterator[None]:
    """Give every adapted layer the adapter of each row, in the forward passes inside.

    beams: how often beam search repeats a row.
    """
    hook = partial(_add_adapter_names, adapter_names=adapter_names, beams=beams)
    handles = [
        module.register_forward_pre_hook(hook, with_kwargs=True)
        for module in model.modules()
        if isinstance(module, AdaptedLayer | AuxiliaryTrainingWrapper)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_adapter_names(
    module: nn.Module, args: Any, kwargs: dict[str, Any], adapter_names: list[str], beams: int
) -> tuple[Any, dict[str, Any]]:
    # Beam search repeats each row of the batch, but an encoder still sees it as it came.
    if beams > 1 and args and len(args[0]) == beams * len(adapter_names):
        adapter_names = [name for name in adapter_names for _ in range(beams)]
    if isinstance(module, ModulesToSaveWrapper):
        # PEFT looks for a module of each adapter, and not all adapters have one here.
        held = module.modules_to_save
        adapter_names = [name if name in held else BASE_ONLY for name in adapter_names]
    return args, kwargs | {"adapter_names": adapter_names}
