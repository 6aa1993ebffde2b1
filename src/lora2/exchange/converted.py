"""Exports an adapter of another method of PEFT as a LoRA, by PEFT's own conversion."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, convert_to_lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import save_file
from torch import nn

from lora2.errors import UserError
from lora2.exchange.lora_form import whole_modules
from lora2.exchange.verification import Batch, logits, relative_difference, sample_batch
from lora2.support.error_text import reason_of
from lora2.support.files import check_is_new, new_folder
from lora2.tuners.base.config.targets import exact_targets
from lora2.tuners.base.loading import load_adapter
from lora2.tuners.base.names.peft_names import PREFIX

_LORA = ".lora_"


@dataclass(frozen=True)
class ConvertedExport:
    """What was written.

    Attributes:
        path: the folder.
        difference: largest difference of the logits, as a share of the largest logit: what a LoRA
            of this rank leaves out.
    """

    path: Path
    difference: float


@torch.no_grad()
def export_converted(
    model: PeftModel,
    base: nn.Module,
    path: Path | str,
    rank: int,
    *,
    batch: Batch | None = None,
    tokenizer: Any = None,
) -> ConvertedExport:
    """Write the change of each weight as a LoRA of this rank: the nearest one, by PEFT.

    Args:
        model: the adapter on its base model, which stays as it is.
        base: the base model once more, to read the LoRA back on; it gets the LoRA.
        path: the folder.
        rank: of the LoRA.
        batch: inputs of the model; made up if there are none.
        tokenizer: is saved with the LoRA.

    Raises:
        UserError: the folder exists, PEFT cannot convert the method, or the method has changed the
            weights below its adapter, so that a LoRA would be one of another base model.
        NumericalError: the model computes NaN or infinity.
    """
    path = Path(path)
    check_is_new(path, name="path")
    method = str(model.peft_config[model.active_adapter].peft_type.value)
    if not model.supports_lora_conversion(model.active_adapter):
        raise UserError(
            f"to: PEFT has no conversion of {method} to a LoRA; export to merged, or load the "
            "adapter on its base model."
        )
    _check_weights_are_those_of(base, model)
    model.eval()
    batch = sample_batch(model) if batch is None else batch
    expected = logits(model, batch)
    try:
        # PEFT warns of variants of LoRA that they are one already, such as DoRA, which is not.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config, tensors = convert_to_lora(model, rank, adapter_name=model.active_adapter)
    except ValueError as error:
        raise UserError(
            f"to: PEFT does not convert {method} to a LoRA of rank {rank} ({reason_of(error)}); "
            "choose another rank, or export to merged."
        ) from error
    config.task_type = model.peft_config[model.active_adapter].task_type
    config.inference_mode = True
    # PEFT 0.21 names what is saved whole by the last part of its name, and forgets modules that are
    # excluded.
    tensors = {name: tensor for name, tensor in tensors.items() if _LORA in name}
    converted = {name.removeprefix(PREFIX).partition(_LORA)[0] for name in tensors}
    config.target_modules = exact_targets(converted, [name for name, _ in base.named_modules()])
    tensors |= whole_modules(model, model.active_adapter)
    with new_folder(path, name="path") as temporary:
        on_disk = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
        save_file(on_disk, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        found = logits(load_adapter(base, temporary).eval(), batch)
    return ConvertedExport(path, relative_difference(expected, found))


def _check_weights_are_those_of(base: nn.Module, model: PeftModel) -> None:
    """Check that a method left the weights below its adapter as they were.

    Raises:
        UserError: it did not, as PiSSA, whose start is taken out of them.
    """
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        below, there = layer.get_base_layer(), base.get_submodule(name)
        for own, parameter in below.named_parameters():
            other = there.get_parameter(own)
            if not torch.equal(parameter.to(other), other):
                raise UserError(
                    f"to: the adapter has changed the weight of {name} below it, so its change is "
                    "no LoRA on the base model; export to merged."
                )
