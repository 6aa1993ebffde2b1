"""Any method of PEFT's registry, by its name or by its config: one entry for all of them."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.adamss.asa_callback import AdamssAsaCallback
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from lora2.errors import UserError
from lora2.exchange.sample_batch import sample_batches
from lora2.support.error_text import in_one_sentence
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import AS_THEY_ARE, PLACE, Method, Options
from lora2.training.methods.peft_options import (
    OPTION,
    check,
    effective_options,
    kind_of,
    make_config,
    shared_options,
)
from lora2.training.methods.wrapping import ConfigRefusedError, trained_outside_head, wrap_with_head
from lora2.training.options.peft_registry import ANY, KINDS, UNSAVED_STATE, PeftKind

_KindOf = Callable[[Options], PeftKind]
# The standard deviation of random weights in a model that is only counted.
_STD = 0.02


def _build(kind_of: _KindOf, base: BaseModel, options: Options, steps: int) -> nn.Module:
    kind = kind_of(options)
    if any(parameter.is_meta for parameter in base.model.parameters()):
        return _without_weights(kind, base, options)
    adapted = _wrapped(kind, base, options)
    _try_step(kind, adapted, base.model)
    return adapted


def _wrapped(kind: PeftKind, base: BaseModel, options: Options) -> nn.Module:
    """Put PEFT's adapter on a model.

    Raises:
        UserError: PEFT cannot do it; the sentence has its reason.
    """
    adapter = make_config(kind, options, base.model)
    model_type = base.model.config.model_type
    with (
        in_one_sentence(
            f"method: PEFT cannot put {kind.label} on this model ({model_type})",
            f"change --{OPTION} or --target_modules, or choose another method",
        ),
        warnings.catch_warnings(),
    ):
        # PEFT ignores a name of no module or parameter, with a warning.
        for text in ("The following .* keys did not match", "target_.* were set but no"):
            warnings.filterwarnings("error", text, RuntimeWarning)
        try:
            return wrap_with_head(base, adapter, effective_options(kind, options))
        except ConfigRefusedError as error:
            raise error.__cause__ or error from None


def _without_weights(kind: PeftKind, base: BaseModel, options: Options) -> nn.Module:
    """Return an adapted copy of a model that may lack weights; it is there to be counted."""
    if issubclass(kind.config_type, LoraConfig):
        # Some starts decompose the weights; all have the same shapes.
        content = {**(options.get(OPTION) or {}), "init_lora_weights": True}
        fields = {n: v for n, v in kind.fields.items() if n != "init_lora_weights"}
        kind, options = dataclasses.replace(kind, fields=fields), {**options, OPTION: content}
    try:
        return _wrapped(kind, dataclasses.replace(base, model=_copy(base.model, "meta")), options)
    except UserError as error:
        if not isinstance(error.__cause__, NotImplementedError):
            raise
    # The method reads the weights, and random ones give the same sizes.
    return _wrapped(kind, dataclasses.replace(base, model=_copy(base.model, "cpu")), options)


@torch.no_grad()
def _copy(model: PreTrainedModel, device: str) -> Any:
    """Return a copy on the meta device, or with random weights on another."""
    copied: Any = copy.deepcopy(model).to("meta")
    if device == "meta":
        return copied
    copied.to_empty(device=device)
    for parameter in copied.parameters():
        parameter.normal_(std=_STD)
    return copied


def _try_step(kind: PeftKind, adapted: nn.Module, base: PreTrainedModel) -> None:
    """Compute a loss and its gradient of made-up rows: what PEFT refuses only then is said now.

    Raises:
        UserError: the method cannot be trained on this model, such as in this precision.
    """
    if is_deepspeed_zero3_enabled():
        # No process has the weights before DeepSpeed's engine is made.
        return
    dtype = str(base.dtype).removeprefix("torch.")
    # Some methods draw random numbers in training.
    with (
        torch.random.fork_rng(),
        in_one_sentence(
            f"method: {kind.label} of PEFT cannot train this model ({base.config.model_type}, "
            f"{dtype})",
            f"change --{OPTION} or --dtype, or choose another method",
        ),
    ):
        adapted.train()
        batch = next(iter(sample_batches(base)))
        adapted(**batch).logits.float().sum().backward()
    adapted.zero_grad(set_to_none=True)


def _count(kind_of: _KindOf, model: PreTrainedModel, options: Options) -> int:
    # The head is left out, and with it what is trained whole: it is counted by itself.
    options = {**options, "modules_to_save": None}
    kind = kind_of(options)
    content = {n: v for n, v in (options.get(OPTION) or {}).items() if n != "modules_to_save"}
    adapted = _without_weights(kind, BaseModel(model, ()), {**options, OPTION: content})
    return trained_outside_head(adapted)


def _resumes(kind_of: _KindOf, options: Options) -> bool:
    content = options.get(OPTION) or {}
    lacks = any(content.get(name) not in (None, False) for name in UNSAVED_STATE)
    return not (lacks or kind_of(options).allocates)


def _method(kind: PeftKind) -> Method:
    return Method(
        name=kind.name,
        label=kind.label,
        source=kind.source or f"{kind.config_type.__name__} of PEFT",
        trains=f"what {kind.config_type.__name__} of PEFT says",
        formula="counted on a model without weights",
        build=partial(_build, lambda options: kind),
        count=partial(_count, lambda options: kind),
        check=partial(check, kind),
        resolve=partial(effective_options, kind),
        options=(OPTION, *shared_options(kind), *kind.options),
        callbacks=(lambda: [AdamssAsaCallback()]) if kind.allocates else list,
        # A variant of LoRA has LoRA's learning rate.
        defaults={"learning_rate": 5e-4} if issubclass(kind.config_type, LoraConfig) else {},
        resumes=partial(_resumes, lambda options: kind),
        from_peft=True,
        # PEFT reads gradients after the optimizer's step, which DeepSpeed has cleared by then.
        shards=not kind.allocates,
        make_optimizer=kind.make_optimizer,
    )


_ANY_METHOD = Method(
    name=ANY,
    label="PEFT",
    source="PEFT",
    trains="what the config says that is given",
    formula="counted on a model without weights",
    build=partial(_build, kind_of),
    count=partial(_count, kind_of),
    check=lambda options: check(kind_of(options), options),
    resolve=lambda options: effective_options(kind_of(options), options),
    options=(OPTION, *PLACE, *AS_THEY_ARE),
    resumes=partial(_resumes, kind_of),
    from_peft=True,
)

METHODS = (_ANY_METHOD, *map(_method, KINDS.values()))
