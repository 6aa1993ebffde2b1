"""What the trainer's options that are mappings may hold, as data, and the check of it.

transformers hands them on: some faults would be raised in the first step, others by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

import torch
from accelerate.utils import GradientAccumulationPlugin
from transformers.trainer_pt_utils import AcceleratorConfig

from lora2.errors import UserError
from lora2.support.field_types import fits, in_words, shortened
from lora2.support.nearest_name import nearest
from lora2.support.ranges import COUNT, check_number

_CHECKPOINTING, _ACCELERATOR = "activation_checkpointing_kwargs", "accelerator_config"
_FSDP = "fsdp_config"
_ACCUMULATION = "gradient_accumulation_kwargs"

# Arguments of torch.utils.checkpoint that JSON has values for. It reads those of the second mapping
# only where `use_reentrant` is false.
_OF_BOTH_WAYS = {"use_reentrant": bool, "preserve_rng_state": bool}
_NOT_REENTRANT = {
    "determinism_check": Literal["default", "none"],
    "debug": bool,
    "early_stop": bool,
}
_OF_TRANSFORMERS = {"every_n_layers": int, "offload": bool}
# transformers reads switches as texts, too, and takes each name with "fsdp_" before it.
_OF_FSDP = (
    "version", "cpu_offload", "auto_wrap_policy", "min_num_params", "transformer_layer_cls_to_wrap",
    "cpu_ram_efficient_loading", "state_dict_type", "activation_checkpointing",
    "reshard_after_forward",
)  # fmt: skip
_OF_FSDP1 = (
    "forward_prefetch", "backward_prefetch", "use_orig_params", "sync_module_states",
    "limit_all_gathers",
)  # fmt: skip
# transformers puts them into the mapping itself.
_OF_XLA = ("xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt", "xla_fsdp_settings")

_FIELDS: Mapping[str, Mapping[str, Any]] = {
    _CHECKPOINTING: {**_OF_BOTH_WAYS, **_NOT_REENTRANT, **_OF_TRANSFORMERS},
    _ACCELERATOR: get_type_hints(AcceleratorConfig),
    _FSDP: dict.fromkeys((*_OF_FSDP, *_OF_FSDP1, *_OF_XLA), Any),
}


def check_mappings(training: Mapping[str, Any]) -> None:
    """Check names and types in those of the trainer's options that are mappings.

    Raises:
        UserError: a name that is not known, a value of another type, or one without effect.
    """
    for option, fields in _FIELDS.items():
        content = training.get(option)
        if isinstance(content, dict):
            if option == _FSDP:
                content = {name.removeprefix("fsdp_"): content[name] for name in content}
            _check_fields(option, content, fields)
            if option == _CHECKPOINTING:
                _check_checkpointing(content)
            if option == _ACCELERATOR:
                _check_accumulation(content.get(_ACCUMULATION) or {})


def _check_fields(name: str, content: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if key not in fields:
            near = nearest(key, fields) or f"one of {', '.join(fields)}"
            raise UserError(f"{name}: {key!r} is not known; write {near}.")
        if not fits(value, fields[key]):
            raise UserError(
                f"{name}: {key} is {shortened(value)}, and must be {in_words(fields[key])}."
            )


def _check_checkpointing(content: Mapping[str, Any]) -> None:
    if "every_n_layers" in content:
        check_number(f"{_CHECKPOINTING}: every_n_layers", content["every_n_layers"], COUNT)
    if content.get("offload") and not torch.accelerator.is_available():
        raise UserError(
            f"{_CHECKPOINTING}: offload copies from an accelerator's memory, and there is none "
            "here; leave it out."
        )
    of_torch = [name for name in content if name not in _OF_TRANSFORMERS]
    if of_torch and "use_reentrant" not in content:
        raise UserError(
            f"{_CHECKPOINTING}: torch needs use_reentrant with {of_torch[0]}; add "
            '"use_reentrant": false.'
        )
    idle = [name for name in of_torch if name in _NOT_REENTRANT]
    if idle and content["use_reentrant"]:
        raise UserError(
            f"{_CHECKPOINTING}: {idle[0]} has no effect with use_reentrant; leave it "
            'out, or write "use_reentrant": false.'
        )


def _check_accumulation(content: Mapping[str, Any]) -> None:
    if "num_steps" in content:
        raise UserError(
            f"{_ACCELERATOR}: num_steps in {_ACCUMULATION} is not read; leave it out, and write "
            f"--gradient_accumulation_steps {shortened(content['num_steps'])}."
        )
    known = get_type_hints(GradientAccumulationPlugin)
    _check_fields(f"{_ACCELERATOR}: {_ACCUMULATION}", content, known)
