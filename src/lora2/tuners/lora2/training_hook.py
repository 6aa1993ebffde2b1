"""What happens at each forward pass: factors are prepared, and in training the penalty is added.

They are hooks of the base model, since not every way to the model leads through the tuner:
PEFT's generic `PeftModel` and transformers' `add_adapter` call the base model itself.
"""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from lora2.tuners.lora2.batched_factors import prepare_factors
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.penalty import penalty_of_layers

_ATTRIBUTE = "lora2_training_hook"


class TrainingHook:
    """Prepares the factors, adds the weighted penalty to `outputs.loss`, keeps its mean."""

    def __init__(self) -> None:
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        # The model and its adapted layers: a walk through all modules is worth sparing.
        self.known_layers: tuple[nn.Module, list[Lora2Layer]] | None = None
        # Whether the trainer adds up the losses of its micro-batches instead of averaging them.
        self.losses_are_summed = False
        # Sums over the micro-batches of the present step, and over the steps that have ended.
        self._total: Tensor | float = 0.0
        self._count = 0
        self._ended: Tensor | float = 0.0
        self._ended_steps = 0
        self._told = False
        self._first_values: dict[str, Tensor] = {}

    def before_forward(self, model: nn.Module, args: Any) -> None:
        """Prepare the factors of the active adapters, and warn if nobody prunes one of them."""
        if _must_stay_plain():
            return
        layers = self._layers(model)
        for name in _active_adapters(layers):
            prepare_factors(layers, name)
        if model.training and torch.is_grad_enabled() and not getattr(model, "_is_replica", False):
            for name, config in _trained_among(layers, model):
                self._warn_if_never_allocated(layers, name, config)

    def after_forward(
        self, model: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any
    ) -> Any:
        """Return the outputs; in training, with the penalty in their loss."""
        if not (model.training and torch.is_grad_enabled()):
            return outputs
        if not _has_loss(outputs):
            return outputs
        penalty = weighted_penalty(model, self._layers(model))
        if penalty is None:
            return outputs
        self.losses_are_summed = kwargs.get("num_items_in_batch") is not None
        penalty = share_of_optimizer_batch(model, kwargs) * penalty
        # Replicas of torch's DataParallel would add up numbers of several devices and threads.
        if not getattr(model, "_is_replica", False):
            self._total, self._count = self._total + penalty.detach(), self._count + 1
        return _add_to_loss(outputs, penalty)

    def end_step(self) -> None:
        """Close an optimizer step: put together what its micro-batches added to the loss."""
        if self._count:
            self._ended = self._ended + self._total / (1 if self.losses_are_summed else self._count)
            self._total, self._count = 0.0, 0
            self._ended_steps += 1

    def take_mean_penalty(self) -> float | None:
        """Return the mean penalty of the optimizer steps ended since the last call, or None."""
        mean = float(self._ended) / self._ended_steps if self._ended_steps else None
        self._ended, self._ended_steps = 0.0, 0
        return mean

    def forget(self, adapter_name: str) -> None:
        """Know nothing of an adapter that has gone; another may get its name."""
        self._first_values.pop(adapter_name, None)

    def _layers(self, model: nn.Module) -> list[Lora2Layer]:
        known = self.known_layers
        # A replica of torch's DataParallel has layers of its own, and a thread of its own.
        if known is None or known[0] is not model:
            return _layers_in(model)
        return known[1]

    def _warn_if_never_allocated(
        self, layers: list[Lora2Layer], name: str, config: Lora2Config
    ) -> None:
        first = next(layer for layer in layers if layer.has_adapter(name))
        if self._told or name in first.lora2_allocated or not config.prunes:
            return
        ranks = [layer.sizes_of(name)[1] for layer in layers if layer.has_adapter(name)]
        if sum(ranks) <= config.target_budget(ranks):
            return
        values = first.parameters_of(name)["lam"].detach()
        if not torch.equal(values, self._first_values.setdefault(name, values.clone())):
            self._told = True
            warnings.warn(
                f"Adapter {name!r} has target_r={config.target_r}, but nothing prunes it: add "
                "Lora2Callback() to the trainer's callbacks, or call RankAllocator.step() "
                "after each optimizer step.",
                stacklevel=2,
            )


def _must_stay_plain() -> bool:
    """Whether each layer is to compute its factors by itself, by plain operations.

    A compiler sees through the layers' formulas and fuses them; a tracer and functorch take no
    autograd function of Python's, and what inference mode makes no later pass can train on.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch.is_inference_mode_enabled()
        or torch._C._are_functorch_transforms_active()
    )


def _active_adapters(layers: list[Lora2Layer]) -> list[str]:
    """Return the names of the adapters that take part in a forward pass."""
    for layer in layers:
        if not layer.disable_adapters and not layer.merged:
            return list(layer.active_adapters)
    return []


def _has_loss(outputs: Any) -> bool:
    if type(outputs) is tuple:
        # Of `return_dict=False`, where a loss is the first of them.
        first = outputs[0] if outputs else None
        return isinstance(first, Tensor) and first.dim() == 0 and first.requires_grad
    if isinstance(outputs, MutableMapping):
        return outputs.get("loss") is not None
    return getattr(outputs, "loss", None) is not None


def _add_to_loss(outputs: Any, penalty: Tensor) -> Any:
    """Return the outputs with the sum in the place of their loss."""

    def added(loss: Tensor) -> Tensor:
        return loss + penalty.to(loss.device, loss.dtype)

    if type(outputs) is tuple:
        return (added(outputs[0]), *outputs[1:])
    if isinstance(outputs, MutableMapping):
        outputs["loss"] = added(outputs["loss"])
    else:
        outputs.loss = added(outputs.loss)
    return outputs


def install(model: nn.Module) -> None:
    """Hook the base model, once however many adapters it gets."""
    hook = model.__dict__.get(_ATTRIBUTE)
    if hook is None:
        hook = TrainingHook()
        hook.handles = [
            model.register_forward_pre_hook(hook.before_forward),
            model.register_forward_hook(hook.after_forward, with_kwargs=True),
        ]
        setattr(model, _ATTRIBUTE, hook)
    # Here, not at the first forward pass: a compiler would take the change for a new model.
    hook.known_layers = (model, _layers_in(model))


def remove(model: nn.Module) -> None:
    """Leave the base model as it was before `install`."""
    hook = installed(model)
    if hook is not None:
        for handle in hook.handles:
            handle.remove()
        delattr(model, _ATTRIBUTE)


def installed(model: nn.Module) -> TrainingHook | None:
    """Return the hook of a base model, or of the base model inside a PEFT model."""
    hooks = (module.__dict__.get(_ATTRIBUTE) for module in model.modules())
    return next((hook for hook in hooks if hook is not None), None)


def trained_adapters(model: nn.Module) -> list[tuple[str, Lora2Config]]:
    """Return the active, enabled adapters that have a trainable parameter."""
    return _trained_among(_layers_in(model), model)


def _layers_in(model: nn.Module) -> list[Lora2Layer]:
    return [module for module in model.modules() if isinstance(module, Lora2Layer)]


def _trained_among(layers: list[Lora2Layer], model: nn.Module) -> list[tuple[str, Lora2Config]]:
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    return [
        (name, config)
        for name, config in configs.items()
        if isinstance(config, Lora2Config) and _is_trained(layers, name)
    ]


def _is_trained(layers: list[Lora2Layer], adapter_name: str) -> bool:
    for layer in layers:
        if layer.has_adapter(adapter_name):
            return layer.trains(adapter_name)
    return False


def weighted_penalty(model: nn.Module, layers: list[Lora2Layer] | None = None) -> Tensor | None:
    """Return Σ orth_reg_weight · R over the trained adapters, or None where there is none.

    layers: all adapted layers of the model, if they are known.
    """
    configs = getattr(model, "peft_config", {}).values()
    if not any(getattr(config, "orthogonality", None) == "penalty" for config in configs):
        return None
    layers = _layers_in(model) if layers is None else layers
    terms = [
        config.orth_reg_weight * penalty_of_layers(layers, name, config)
        for name, config in _trained_among(layers, model)
        if config.orthogonality == "penalty" and config.orth_reg_weight
    ]
    return torch.stack(terms).sum() if terms else None


def share_of_optimizer_batch(model: nn.Module, kwargs: dict[str, Any]) -> Tensor | float:
    """Return the part of the optimizer's batch that this micro-batch is, as its loss counts it.

    transformers' Trainer hands a causal LM the number of labels of the whole optimizer batch and
    sums the losses of its micro-batches. The penalty must enter that sum once, not once each. A
    classifier gets the number too but returns a plain mean, and the penalty stays in proportion.
    """
    whole = kwargs.get("num_items_in_batch")
    labels = kwargs.get("shift_labels", kwargs.get("labels"))
    if whole is None or labels is None or not _is_causal_lm(model):
        return 1.0
    if "shift_labels" not in kwargs:
        # The first token of a row is never predicted.
        labels = labels[..., 1:]
    return (labels != -100).sum() / whole


def _is_causal_lm(model: nn.Module) -> bool:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss
