"""Which part of a run each trained parameter belongs to: adapter, whole modules or head."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from peft.utils import ModulesToSaveWrapper
from torch import nn

from lora2.tuners.base.distributed.zero import numbers_of


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


def total_numbers(parameters: Iterable[nn.Parameter]) -> int:
    """Return how many numbers parameters have, those of other processes too."""
    return sum(map(numbers_of, parameters))
