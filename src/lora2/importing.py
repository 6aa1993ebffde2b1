"""The other way: a trained LoRA or AdaLoRA becomes a LoRA² adapter, exactly, with k = r.

Training can then go on with pruning.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper, PeftType
from torch import Tensor, nn

from lora2.config import Lora2Config
from lora2.errors import UserError
from lora2.export.verification import sharing_copy
from lora2.mathematics.low_rank import rank, singular_value_form
from lora2.penalty import adapted_layers
from lora2.saving import pattern_for


@torch.no_grad()
def import_lora(
    model: nn.Module, path: Path | str, *, adapter_name: str = "default", **fields: Any
) -> PeftModel:
    """Return the model with a LoRA² adapter that computes what the LoRA in `path` does.

    model: its base model; fields: of `Lora2Config`, such as `target_r` and `lora_alpha`. Each
    matrix gets k and init_r of the rank that it has; λ starts at 1 with the magnitude in 𝒱, as at
    the default start.

    Raises:
        UserError: the adapter is no LoRA or AdaLoRA, or has what LoRA² has not (DoRA, a bias).
    """
    config = PeftConfig.from_pretrained(str(path))
    _check(config, path)
    taught = load_source(model, path)
    layers = {
        name: module
        for name, module in taught.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and module.r
    }
    # Matrices of which AdaLoRA kept nothing are left out: they have no directions to go on from.
    pairs = {name: _factors(name, layer) for name, layer in layers.items()}
    forms = {name: singular_value_form(B, A) for name, (B, A) in pairs.items() if len(A)}
    if not forms:
        raise UserError(f"the adapter in {path} changes nothing; train a new one.")
    sizes = {name: max(1, rank(sigma)) for name, (_, sigma, _) in forms.items()}
    largest = max(sizes.values())
    pattern = pattern_for(sizes, {}, largest)
    adapter = Lora2Config(
        k=largest,
        init_r=largest,
        k_pattern=dict(pattern),
        rank_pattern=dict(pattern),
        target_modules=sorted(sizes),
        modules_to_save=config.modules_to_save,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        **fields,
    )
    result = get_peft_model(model, adapter, adapter_name)
    for name, layer in adapted_layers(result.get_base_model(), adapter_name).items():
        layer.set_change(adapter_name, *forms[name])
    _take_over_whole_modules(taught, result, adapter_name)
    return result


def load_source(model: nn.Module, path: Path | str) -> PeftModel:
    """Return PEFT's own adapter in `path` on a copy of the base model that shares its weights."""
    # PEFT warns of AdaLoRA's own rank patterns, and of matrices of which it kept nothing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(sharing_copy(model), str(path)).eval()


def _check(config: PeftConfig, path: Path | str) -> None:
    if config.peft_type not in (PeftType.LORA, PeftType.ADALORA):
        raise UserError(
            f"{path} holds an adapter of {config.peft_type}; only LoRA and AdaLoRA become LoRA²."
        )
    values = vars(config)
    for name, plain in (("use_dora", False), ("bias", "none"), ("lora_bias", False)):
        if values.get(name, plain) != plain:
            raise UserError(
                f"{name}={values[name]!r} in {path}: LoRA² has no such part, so the adapter would "
                "compute something else; train it without."
            )
    if values.get("target_parameters") or values.get("trainable_token_indices"):
        raise UserError(
            f"{path} adapts single parameters or tokens, which LoRA² does not; use target_modules."
        )


def _factors(name: str, layer: Any) -> tuple[Tensor, Tensor]:
    """Return (B [d_out, r], A [r, d_in]) of a layer of PEFT's, scaling included, in float64."""
    adapter = "default"
    scaling = layer.scaling[adapter]
    if adapter in getattr(layer, "lora_E", ()):
        # PEFT's own 1e-5, which keeps a module of rank 0 from dividing by zero.
        scaling /= float(layer.ranknum[adapter]) + 1e-5
        singular_values = scaling * layer.lora_E[adapter].double()
        return layer.lora_B[adapter].double(), singular_values * layer.lora_A[adapter].double()
    if adapter in layer.lora_embedding_A:
        A, B = layer.lora_embedding_A[adapter].double(), layer.lora_embedding_B[adapter].double()
        return scaling * A.mT, B.mT
    A, B = layer.lora_A[adapter].weight.double(), layer.lora_B[adapter].weight.double()
    base = layer.get_base_layer()
    if isinstance(base, nn.Conv2d) and base.groups > 1:
        raise UserError(
            f"{name} is a convolution with groups={base.groups}, in which PEFT's LoRA is of a form "
            "that LoRA² has not; leave it out of target_modules."
        )
    return scaling * B.flatten(1), A.flatten(1)


def _take_over_whole_modules(source: PeftModel, target: PeftModel, adapter_name: str) -> None:
    wrapped = dict(source.get_base_model().named_modules())
    for name, module in target.get_base_model().named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            saved = wrapped[name].adapter_state_dict("default", wrapped[name].state_dict())
            module.modules_to_save[adapter_name].load_state_dict(saved)
