"""The fields of a config that give each matrix of a model the rank that is known for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lora2.tuners.base.config.patterns import pattern_for
from lora2.tuners.base.config.targets import exact_targets
from lora2.tuners.base.layers.experts import split_targets
from lora2.tuners.base.names.compiled_names import name_in_state_dict
from lora2.tuners.base.names.peft_names import target_of


def fields_of_sizes(sizes: Mapping[str, int], model: nn.Module) -> dict[str, Any]:
    """Return the fields of a config that adapt just these layers, each with its rank.

    sizes: the rank by full name of the layer; a rank of 0 leaves nothing of the layer's adapter.
    """
    largest = max([1, *sizes.values()])
    # k says nothing where the rank is 0.
    widths = {name: size or largest for name, size in sizes.items()}
    modules, parameters = split_targets({target_of(name) for name in sizes})
    names = [name_in_state_dict(name) for name, _ in model.named_modules()]
    return {
        "k": largest,
        "init_r": largest,
        "k_pattern": pattern_for(widths, {}, largest),
        "rank_pattern": pattern_for(sizes, {}, largest),
        "target_modules": exact_targets(modules, names),
        "target_parameters": parameters,
    }
