"""The model of an experiment, with its adapter, and its optimizer."""

from __future__ import annotations

from typing import Any

import torch
from peft import get_peft_model, initialize_kv_prefix_from_text
from peft.optimizers import (
    create_lorafa_optimizer,
    create_loraplus_optimizer,
    create_riemannian_optimizer,
)
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
    get_constant_schedule,
    get_cosine_schedule_with_warmup,
)

import lora2
from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.support.extras import require
from lora2.training.base_models.models import load_language_model
from lora2.tuners.lora2.allocation.budget import plan_budget
from lora2.tuners.lora2.layer import lora2_layers
from peft_comparison.experiment import Experiment
from peft_comparison.train_config import TrainConfig

_QUANTIZED = {"int8": {"load_in_8bit": True}, "int4": {"load_in_4bit": True}}
_WARMUP = 0.1


def build_model(experiment: Experiment, tokenizer: PreTrainedTokenizerBase, device: str) -> Any:
    """Load the base model and put the adapter into it.

    Raises:
        UserError: a model that cannot be loaded, or that does not take this adapter.
    """
    config = experiment.train
    model: Any = load_base(config, device)
    if config.use_gc:
        model.enable_input_require_grads()
        # transformers 5 has another name for it, and warns of the old one.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)()
    if experiment.adapter is not None:
        model = _adapted(model, experiment)
        if config.init_kv_cache_prefix is not None:
            _start_prefix(model, tokenizer, config.init_kv_cache_prefix)
    if config.compile:
        model.compile(dynamic=True)
    return model


def load_base(config: TrainConfig, device: str) -> Any:
    """Load the base model in the experiment's precision.

    Raises:
        UserError: there is no such model, or a package is missing.
    """
    options: dict[str, Any] = {"attn_implementation": config.attn_implementation}
    dtype: str = config.dtype
    if config.dtype in _QUANTIZED:
        require("bitsandbytes", extra="quantized")
        options["quantization_config"] = BitsAndBytesConfig(**_QUANTIZED[config.dtype])
        dtype = "auto"
    return load_language_model(config.model_id, dtype, device_map=device, **options).model


def _adapted(model: Any, experiment: Experiment) -> Any:
    adapter: Any = experiment.adapter
    try:
        made: Any = get_peft_model(
            model, adapter, autocast_adapter_dtype=experiment.train.autocast_adapter_dtype
        )
    except UserError as error:
        raise UserError(f"adapter_config.json: {error}") from error
    except (KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(
            f"adapter_config.json: this model does not take it ({clause_of(error)}); "
            "correct it, or give another model."
        ) from error
    if isinstance(adapter, lora2.Lora2Config) and adapter.prunes:
        # A schedule that does not fit is found now rather than at the first step.
        layers = lora2_layers(made, "default").values()
        matrices = [layer.matrix_size("default") for layer in layers]
        plan_budget(adapter, matrices, experiment.train.max_steps)
    return made


def _start_prefix(model: Any, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    try:
        initialize_kv_prefix_from_text(model, tokenizer, text=text, use_chat_template=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"init_kv_cache_prefix: PEFT does not take it ({clause_of(error)}); correct it."
        ) from error


def build_optimizer(model: Any, experiment: Experiment) -> tuple[Optimizer, LRScheduler]:
    """Return the optimizer of an experiment and its schedule of learning rates.

    Raises:
        UserError: options that the optimizer does not have, or an optimizer that is not for this
            method.
    """
    config = experiment.train
    try:
        optimizer = _optimizer(model, experiment)
    except UserError as error:
        raise UserError(f"optimizer_kwargs: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"optimizer_kwargs: {config.optimizer_type} does not take {config.optimizer_kwargs} "
            f"({clause_of(error)}); correct them, or optimizer_type."
        ) from error
    if config.lr_scheduler is None:
        return optimizer, get_constant_schedule(optimizer)
    return optimizer, get_cosine_schedule_with_warmup(
        optimizer, int(_WARMUP * config.max_steps), config.max_steps
    )


def _optimizer(model: Any, experiment: Experiment) -> Optimizer:
    kind, options = experiment.train.optimizer_type, dict(experiment.train.optimizer_kwargs)
    is_lora2 = isinstance(experiment.adapter, lora2.Lora2Config)
    if kind == "lora+":
        if is_lora2:
            # PEFT's helper knows the names of LoRA alone.
            options["ratio"] = options.pop("loraplus_lr_ratio")
            return AdamW(lora2.loraplus_groups(model, **options))
        return create_loraplus_optimizer(model, optimizer_cls=AdamW, **options)
    if kind in ("lora-fa", "riemannian"):
        if is_lora2:
            raise UserError(f"{kind} is an optimizer of LoRA's A and B, which LoRA² has not.")
        if kind == "lora-fa":
            return create_lorafa_optimizer(model, **options)
        return create_riemannian_optimizer(model, optimizer_cls=AdamW, **options)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return getattr(torch.optim, kind)(trained, **options)
