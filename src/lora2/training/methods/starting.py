"""Training that goes on from an adapter: one of LoRA², or a LoRA that becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from peft.utils import PeftType
from torch import nn

from lora2.errors import UserError
from lora2.importing import import_lora
from lora2.training.methods.method import Options

# What says how training goes, as against what the adapter is.
_SCHEDULE = (
    "target_r",
    "tinit",
    "tfinal",
    "deltaT",
    "budget_schedule",
    "importance",
    "beta1",
    "beta2",
    "lora_dropout",
)


def go_on_from(model: Any, path: Path, options: Options) -> nn.Module:
    """Return the model with the adapter in `path`, to be trained and pruned by these options.

    Raises:
        UserError: no adapter, or one that does not fit the model.
    """
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    if not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"start_from: {path} holds no adapter_config.json; give the folder of an adapter or of "
            "a finished run."
        )
    fields = {name: options[name] for name in _SCHEDULE}
    try:
        if PeftConfig.from_pretrained(str(folder)).peft_type != PeftType["LORA2"]:
            return import_lora(model, folder, **fields)
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise UserError(
            f"start_from: the adapter in {folder} does not fit this model ({reason}); give the "
            "model, and labels as many, that it was trained with."
        ) from error
    # Of a finished run λ has only what was kept: nothing says which values to prune but from here.
    config = adapted.peft_config["default"]
    for name, value in fields.items():
        setattr(config, name, value)
    return adapted
