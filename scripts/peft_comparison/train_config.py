"""The fields of an experiment's training_params.json, with PEFT's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from transformers import GenerationConfig

from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json
from lora2.support.error_text import first_line_of

FILE = "training_params.json"
# PEFT's own helpers make these; all others are classes of torch.optim.
PEFT_OPTIMIZERS = ("lora+", "lora-fa", "riemannian")
# Classes of torch.optim that make no step of dense gradients alone.
_OTHER_STEPS = {
    "LBFGS": "computes the loss several times in a step",
    "SparseAdam": "is for sparse gradients",
    "Optimizer": "is the base of all others",
}
_QUERY = "{query}"


@dataclass(frozen=True)
class TrainConfig:
    """How an experiment is trained and scored.

    Names, order and defaults are those of PEFT's TrainConfig and default_training_params.json.
    """

    model_id: str = "meta-llama/Llama-3.2-3B"
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4"] = "bfloat16"
    max_seq_length: int = 768
    batch_size: int = 4
    batch_size_eval: int = 50
    max_steps: int = 5000
    eval_steps: int = 250
    compile: bool = False
    use_gc: bool = False
    query_template: str = "Question: {query} Think step by step.\nAnswer:"
    seed: int = 0
    grad_norm_clip: float = 1.0
    optimizer_type: str = "AdamW"
    optimizer_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"lr": 1e-4, "weight_decay": 0.1}
    )
    lr_scheduler: Literal["cosine"] | None = "cosine"
    use_amp: bool = False
    autocast_adapter_dtype: bool = True
    generation_kwargs: dict[str, Any] = field(
        default_factory=lambda: {"max_length": 800, "max_new_tokens": 300}
    )
    attn_implementation: str | None = None
    init_kv_cache_prefix: str | None = None


def read_train_config(path: Path) -> TrainConfig:
    """Return the fields of a file over PEFT's defaults; without a file, the defaults.

    Raises:
        UserError: a field that does not exist, or a value that cannot be.
    """
    if not path.exists():
        return TrainConfig()
    advice = "write the fields of PEFT's training_params.json"
    given = read_json(path, advice)
    known = [each.name for each in fields(TrainConfig)]
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            instead = f"write {close[0]}" if close else f"write one of {', '.join(known)}"
            raise UserError(f"{path}: {name} is no field of PEFT's TrainConfig; {instead}.")
    check_fields(given, get_type_hints(TrainConfig), path, advice, optional=True)
    config = TrainConfig(**given)
    _check_numbers(config, path)
    _check_texts(config, path)
    _check_generation(config.generation_kwargs, path)
    return config


def _check_numbers(config: TrainConfig, path: Path) -> None:
    for name in ("max_seq_length", "batch_size", "batch_size_eval", "max_steps", "eval_steps"):
        if getattr(config, name) < 1:
            raise UserError(f"{path}: {name} is {getattr(config, name)}; write 1 or more.")
    if config.eval_steps > config.max_steps:
        raise UserError(
            f"{path}: eval_steps is {config.eval_steps}, above max_steps={config.max_steps}; write "
            f"{config.max_steps} or less."
        )
    if config.grad_norm_clip < 0:
        raise UserError(
            f"{path}: grad_norm_clip is {config.grad_norm_clip}; write 0 for none, or more."
        )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"{path}: seed is {config.seed}; write a number from 0 to 2**32 - 1.")


def _check_texts(config: TrainConfig, path: Path) -> None:
    kind = getattr(torch.optim, config.optimizer_type, None)
    is_torch = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if is_torch and config.optimizer_type in _OTHER_STEPS:
        raise UserError(
            f"{path}: optimizer_type is {config.optimizer_type!r}, which "
            f"{_OTHER_STEPS[config.optimizer_type]}; write another class of torch.optim, such as "
            "AdamW."
        )
    if config.optimizer_type not in PEFT_OPTIMIZERS and not is_torch:
        raise UserError(
            f"{path}: optimizer_type is {config.optimizer_type!r}; write a class of torch.optim "
            f"such as AdamW, or one of {', '.join(PEFT_OPTIMIZERS)}."
        )
    try:
        is_template = _QUERY in config.query_template and bool(
            config.query_template.format(query=1)
        )
    except (IndexError, KeyError, ValueError):
        is_template = False
    if not is_template:
        raise UserError(
            f"{path}: query_template is {config.query_template!r}; write a text with {_QUERY} and "
            "no other braces (those of the text twice)."
        )
    if config.use_amp and config.dtype == "float16" and not config.autocast_adapter_dtype:
        raise UserError(
            f"{path}: use_amp is true, and its gradients cannot be scaled in an adapter of float16;"
            " write autocast_adapter_dtype true, or use_amp false."
        )


def _check_generation(given: Mapping[str, Any], path: Path) -> None:
    usual = GenerationConfig()
    for name, value in given.items():
        if not hasattr(usual, name):
            raise UserError(
                f"{path}: generation_kwargs has {name}, which is no field of transformers' "
                "GenerationConfig; remove it."
            )
        if name.startswith("max_") and value is not None and (type(value) is not int or value < 1):
            raise UserError(
                f"{path}: generation_kwargs has {name}={value!r}; write a whole number above 0."
            )
    try:
        GenerationConfig(**given)
    except (TypeError, ValueError) as error:
        reason = first_line_of(error)
        raise UserError(f"{path}: generation_kwargs cannot be ({reason}); correct it.") from error
