"""Training that continues from an adapter: one of LoRA², or a LoRA that becomes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft.utils import PeftType
from torch import nn

from lora2.errors import UserError
from lora2.exchange.from_lora import check_importable, import_lora
from lora2.training.methods.method import Options
from lora2.training.models import BaseModel
from lora2.tuners.base.loading import find_adapter, load_adapter, read_adapter_config
from lora2.tuners.lora2.config import SCHEDULE_FIELDS, Lora2Config
from lora2.tuners.lora2.layer import adapted_layers

# What says how training goes, as against what the adapter is.
_SCHEDULE = (*SCHEDULE_FIELDS, "lora_dropout")
# What an adapter of LoRA² has been trained as, and a LoRA becomes.
_FORM = ("orthogonality", "orthogonality_terms", "orth_reg_weight", "lora_alpha")


def go_on_from(base: BaseModel, path: Path, options: Options) -> nn.Module:
    """Return the model with the adapter in `path`, to be trained and pruned by these options.

    Raises:
        UserError: no adapter, or one that does not fit the model or its task.
    """
    folder = find_adapter(path, "start_from")
    fields = {name: options[name] for name in _SCHEDULE}
    config = read_adapter_config(folder)
    ours = config.peft_type == PeftType["LORA2"]
    if not ours:
        check_importable(folder)
    if config.task_type != base.task_type:
        wanted = "without a task type" if base.task_type is None else base.task_type.value
        raise UserError(
            f"start_from: the adapter in {folder} is for {config.task_type}, and this run is "
            f"{wanted}; give one that was trained for the same."
        )
    if not ours:
        return import_lora(base.model, folder, **fields, **{name: options[name] for name in _FORM})
    adapted = load_adapter(base.model, folder, is_trainable=True)
    saved: Lora2Config = adapted.peft_config["default"]
    for name in _FORM:
        if options[name] not in (getattr(saved, name), getattr(Lora2Config, name)):
            raise UserError(
                f"{name}={options[name]}: the adapter in {folder} was trained with "
                f"{getattr(saved, name)}, and this training uses the same; leave {name} out."
            )
    # The fields are checked again. Of a finished run λ has only what was kept.
    adapted.peft_config["default"] = replace(saved, **fields)
    for layer in adapted_layers(adapted, "default").values():
        layer.add_dropout("default", fields["lora_dropout"])
    return adapted
