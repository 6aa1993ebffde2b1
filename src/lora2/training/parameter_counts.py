"""What a model trains, counted by its parts: adapter, whole modules and head."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from peft import get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from torch import nn

from lora2.tuners.base.distributed.zero import numbers_of
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.saving import is_of_adapter


class TrainedParts(NamedTuple):
    """The trained parameters of a model, each in one part.

    Attributes:
        adapter: what the method puts into the model, or trains where it stands.
        whole: modules that are trained whole with this run, such as those of `modules_to_save`.
        head: modules that every method trains.
    """

    adapter: list[nn.Parameter]
    whole: list[nn.Parameter]
    head: list[nn.Parameter]


def trained_parts(model: nn.Module, head: Collection[str]) -> TrainedParts:
    """Return the trained parameters of a model by what they belong to.

    head: ends of the names of modules that every method trains, see `head_names`.
    """
    whole, of_head = _modules(model, tuple(name for name in head if name))
    parts = TrainedParts([], [], [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_in = [id(parameter) in each for each in (of_head, whole)]
            part = parts.head if is_in[0] else parts.whole if is_in[1] else parts.adapter
            part.append(parameter)
    return parts


def count_parameters(model: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Return the trainable parameters of the "adapter" and of the "head".

    Modules that this run trains whole are counted with the adapter.

    head: ends of the names of modules that every method trains, see `head_names`.
    """
    parts = trained_parts(model, head)
    return {
        "adapter": total_numbers(parts.adapter) + total_numbers(parts.whole),
        "head": total_numbers(parts.head),
    }


def count_final_parameters(model: nn.Module, head: Collection[str]) -> dict[str, int]:
    """Return the same of a trained model, as it is saved.

    Where an engine splits the adapter, what was pruned is still in memory; all processes must take
    part.
    """
    counts = count_parameters(model, head)
    layers = lora2_layers(model, "default").values()
    if any(layer.lora2_states["default"].is_finished for layer in layers):
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
        left = sum(tensor.numel() for name, tensor in saved.items() if is_of_adapter(name))
        counts["adapter"] += left - total_numbers(trained_parts(model, head).adapter)
    return counts


def total_numbers(parameters: Iterable[nn.Parameter]) -> int:
    """Return how many numbers parameters have, those of other processes too."""
    return sum(map(numbers_of, parameters))


def _modules(model: nn.Module, head: tuple[str, ...]) -> tuple[set[int], set[int]]:
    """Return the parameters of modules that PEFT trains whole, and those of the head, by id."""
    has_adapter = bool(getattr(model, "peft_config", {}))
    whole: set[int] = set()
    of_head: set[int] = set()
    for name, module in model.named_modules():
        # What PEFT was asked to train whole it has wrapped, by the ends of names: DistilBERT's
        # pre_classifier is one of "classifier". A model without adapter has no such wrapper.
        is_whole = isinstance(module, ModulesToSaveWrapper)
        if name.endswith(head) and (is_whole or not has_adapter):
            of_head.update(map(id, module.parameters()))
        elif is_whole:
            whole.update(map(id, module.parameters()))
    return whole, of_head
