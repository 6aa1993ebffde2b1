"""The modules and matrices of a model that a config will adapt, before there is an adapter."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable

from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora2.training.methods.wrapping import is_of_head, nothing_chosen
from lora2.tuners.base.config.expert_targets import choose_parameters, is_chosen, names_parameter
from lora2.tuners.base.layers.dispatch import layer_type_of
from lora2.tuners.base.layers.experts import matrix_name
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer_types import LAYER_TYPES

LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)
"""The kinds of layers that every method can adapt."""

ALL_LAYER_KINDS = tuple(LAYER_TYPES)
"""The kinds that LoRA and LoRA² can adapt."""

Shape = tuple[int, int]
"""(d_out, d_in) of a matrix."""


def adapted_modules(
    model: PreTrainedModel, config: PeftConfig, kinds: tuple[type[nn.Module], ...] = LINEAR
) -> dict[str, nn.Module]:
    """Return the modules of these kinds that a config chooses, by name, heads left out."""
    probe = copy.copy(config)
    if probe.target_modules is None:
        return {}
    if probe.target_modules == ALL_LINEAR:
        # PEFT knows the word only where it makes an adapter.
        probe.target_modules, kinds = ".*", LINEAR
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and not is_of_head(name)
        and check_target_module_exists(probe, name)
    }


def adapted_parameters(model: PreTrainedModel, config: Lora2Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters that a config chooses, by their names."""
    config = copy.copy(config)
    with warnings.catch_warnings():
        # The same warnings come when the adapter is made.
        warnings.simplefilter("ignore")
        choose_parameters(config, model, ALL_LAYER_KINDS)
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if names_parameter(config, name) and is_chosen(config, name)
    }


def linear_shapes(model: PreTrainedModel, config: PeftConfig) -> dict[str, Shape]:
    """Return the shape of each linear layer's matrix that a config adapts, by the layer's name.

    Raises:
        UserError: there is none.
    """
    return _checked(_shapes_of_modules(model, config, LINEAR), model, config)


def matrix_shapes(model: PreTrainedModel, config: Lora2Config) -> dict[str, Shape]:
    """Return the shape of each matrix that LoRA² adapts, of modules and of experts, by its name.

    Raises:
        UserError: there is none.
    """
    of_modules = _shapes_of_modules(model, config, ALL_LAYER_KINDS)
    of_experts = {
        name: (shape[-2], shape[-1])
        for parameter, shape in adapted_parameters(model, config).items()
        for name in expert_names(parameter, shape)
    }
    return _checked(of_modules | of_experts, model, config)


def expert_names(parameter: str, shape: tuple[int, ...]) -> Iterable[str]:
    """Return the names of the modules that the matrices of a parameter of this shape become."""
    count = shape[0] if len(shape) == 3 else 1
    return (matrix_name(parameter, index) for index in range(count))


def _shapes_of_modules(
    model: PreTrainedModel, config: PeftConfig, kinds: tuple[type[nn.Module], ...]
) -> dict[str, Shape]:
    modules = adapted_modules(model, config, kinds)
    return {
        name: layer_type_of(module, name, LAYER_TYPES).shape_of(module)
        for name, module in modules.items()
    }


def _checked(
    shapes: dict[str, Shape], model: PreTrainedModel, config: PeftConfig
) -> dict[str, Shape]:
    if not shapes:
        raise nothing_chosen(model, config)
    return shapes
