"""The other way: a trained LoRA or AdaLoRA becomes a LoRA² adapter, exactly, with k = r.

Training can then continue, with pruning.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.exchange.expert_form import factors_by_matrix
from lora2.exchange.lora_units import check_none_is_in_a_module_of_parameters
from lora2.exchange.verification import copy_sharing_weights
from lora2.mathematics.low_rank import rank, singular_value_form
from lora2.support.files import as_path
from lora2.tuners.base.checked_model import check_is_module
from lora2.tuners.base.finite_checks import check_finite_factors
from lora2.tuners.base.layers.dispatch import layer_type_of
from lora2.tuners.base.layers.experts import parameter_of
from lora2.tuners.base.loading import load_adapter, read_adapter_config
from lora2.tuners.base.modules_to_save import modules_trained_whole
from lora2.tuners.base.names.adapter_names import check_adapter_name
from lora2.tuners.base.token_rows.finding import copy_rows
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.fields_of_sizes import fields_of_sizes
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.layer_types import LAYER_TYPES

# Fields of PEFT's LoRA and AdaLoRA that leave it W + B A, whatever they are.
_HARMLESS = frozenset({
    *(field.name for field in fields(PeftConfig)),
    *("r", "lora_alpha", "use_rslora", "lora_dropout", "rank_pattern", "alpha_pattern"),
    *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "modules_to_save", "trainable_token_indices", "ensure_weight_tying"),
    *("fan_in_fan_out", "megatron_config", "megatron_core", "runtime_config"),
    # How it starts, which `init_lora_weights` says too, and how it trains.
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
    *("qalora_group_size", "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"),
    *("orth_reg_weight", "total_step"),
})  # fmt: skip
# Other fields must be empty, or have one of these values: a later PEFT may add one that makes the
# change more than B A. The other starts change the base weight when PEFT makes the layers.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
}


@torch.no_grad()
def import_lora(
    model: nn.Module, path: Path | str, *, adapter_name: str = "default", **options: Any
) -> PeftModel:
    """Return the model with a LoRA² adapter that computes what the LoRA in `path` does.

    model: its base model; options: fields of `Lora2Config`, such as `target_r` and `lora_alpha`,
    but not its sizes and modules. Each matrix gets k and init_r of the rank that it has; λ starts
    at 1 with the magnitude in 𝒱, as at the default start.

    Raises:
        UserError: the adapter is no LoRA or AdaLoRA, or has what LoRA² has not (DoRA, a bias), or
            a field that it decides itself; or the model has adapters already, or the name is none.
        NumericalError: it holds NaN or infinity.
    """
    check_is_module(model)
    check_adapter_name(adapter_name)
    config = importable_config(path)
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise UserError(
            f"model: it has adapters already, and the adapter in {path} is read on the base model; "
            "give the model without them."
        )
    taught = load_source(model, path)
    _check_ties(taught, path)
    forms = _forms_of(taught, path)
    # One that AdaLoRA has emptied has no direction to continue from, and stays empty.
    sizes = {
        name: max(1, rank(sigma)) if len(sigma) else 0 for name, (_, sigma, _) in forms.items()
    }
    decided = _decided(config, sizes, model)
    twice = sorted(decided.keys() & options.keys())
    if twice:
        raise UserError(f"{', '.join(twice)}: the adapter in {path} decides; leave it out.")
    adapter = Lora2Config(**decided, **options)
    result = get_peft_model(model, adapter, adapter_name)
    for name, layer in lora2_layers(result.get_base_model(), adapter_name).items():
        if sizes[name]:
            layer.set_change(adapter_name, *forms[name])
    _take_over_whole_modules(taught, result, adapter_name)
    copy_rows(taught.get_base_model(), "default", result.get_base_model(), adapter_name)
    return result


def _forms_of(taught: PeftModel, path: Path | str) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return the change of each matrix as (X, σ, Y), by its name; σ is empty where nothing is.

    Raises:
        UserError: no matrix is changed.
        NumericalError: a factor holds NaN or infinity.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in taught.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and module.r:
            pairs |= _pairs(name, module)
    check_none_is_in_a_module_of_parameters(pairs, "train it on one of them alone")
    check_finite_factors(pairs.items(), f"the adapter in {path}")
    forms = {name: singular_value_form(B, A) for name, (B, A) in pairs.items()}
    if not any(len(sigma) for _, sigma, _ in forms.values()):
        raise UserError(f"the adapter in {path} changes nothing; train a new one.")
    return forms


def _decided(config: PeftConfig, sizes: dict[str, int], model: nn.Module) -> dict[str, Any]:
    """Return the fields of Lora2Config that the imported adapter decides.

    sizes: the rank of each matrix, by its name.
    """
    return {
        **fields_of_sizes(sizes, model),
        "modules_to_save": config.modules_to_save,
        "trainable_token_indices": getattr(config, "trainable_token_indices", None),
        "task_type": config.task_type,
        "base_model_name_or_path": config.base_model_name_or_path,
    }


def load_source(model: nn.Module, path: Path | str) -> PeftModel:
    """Return PEFT's own adapter in `path` on a copy of the base model that shares its weights.

    Raises:
        UserError: it is of another base model.
    """
    return load_adapter(copy_sharing_weights(model), Path(path)).eval()


def importable_config(path: Path | str) -> PeftConfig:
    """Return the config of an adapter that LoRA² can compute.

    Raises:
        UserError: it is of another method, or does more than to add B A to a weight.
    """
    config = read_adapter_config(as_path(path))
    if config.peft_type not in (PeftType.LORA, PeftType.ADALORA):
        raise UserError(
            f"{path} holds an adapter of {PeftType(config.peft_type).value}; only LoRA and AdaLoRA "
            "become LoRA²."
        )
    for name in (field.name for field in fields(config) if field.name not in _HARMLESS):
        value = getattr(config, name)
        if value and value not in _PLAIN.get(name, ()):
            raise UserError(
                f"{name}={value!r} in {path}: LoRA² has no such part, so the adapter would compute "
                "something else; train it without."
            )
    return config


def _check_ties(taught: PeftModel, path: Path | str) -> None:
    """Check that PEFT has tied no module to one that is trained whole.

    Raises:
        UserError: it has.
    """
    config: Any = taught.peft_config["default"]
    if not getattr(config, "ensure_weight_tying", False):
        return
    named = config.modules_to_save or ()
    for name, _ in modules_trained_whole(taught.get_base_model()):
        # PEFT compares names in this way.
        if not name.endswith(tuple(named)):
            raise UserError(
                f"ensure_weight_tying=True in {path}: {name} is tied to one of modules_to_save="
                f"{list(named)}, and LoRA² would train and save it untied; train the LoRA with "
                "trainable_token_indices in place of whole modules, or without tying."
            )


def _pairs(name: str, layer: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the factors of one layer of PEFT's, by name of the adapted layer that gets them."""
    if not isinstance(layer, ParamWrapper):
        return {name: _factors(name, layer)}
    pairs = factors_by_matrix(name, layer)
    is_linear = type(layer.get_base_layer()).forward is nn.Linear.forward
    if is_linear and layer.parameter_name == "weight":
        # A dense layer, which a LoRA for a mixture of experts may name by its weight.
        return {
            str(parameter_of(matrix)).removesuffix(".weight"): pairs[matrix] for matrix in pairs
        }
    return pairs


def _factors(name: str, layer: Any) -> tuple[Tensor, Tensor]:
    """Return (B [d_out, r], A [r, d_in]) of a layer of PEFT's, scaling included, in float64."""
    adapter = "default"
    scaling = layer.scaling[adapter]
    if adapter in getattr(layer, "lora_E", ()):
        # PEFT's own 1e-5, which keeps a module of rank 0 from dividing by zero.
        scaling /= float(layer.ranknum[adapter]) + 1e-5
        singular_values = scaling * layer.lora_E[adapter].double()
        return layer.lora_B[adapter].double(), singular_values * layer.lora_A[adapter].double()
    kind = layer_type_of(layer.get_base_layer(), name, LAYER_TYPES)
    B, A = kind.from_lora(layer, adapter, name)
    return scaling * B.double(), A.double()


def _take_over_whole_modules(source: PeftModel, target: PeftModel, adapter_name: str) -> None:
    wrapped = dict(source.get_base_model().named_modules())
    for name, wrapper in modules_trained_whole(target.get_base_model()):
        saved = wrapped[name].adapter_state_dict("default", wrapped[name].state_dict())
        wrapper.modules_to_save[adapter_name].load_state_dict(saved)
