"""What happens at each forward pass: factors are prepared, and in training the penalty is added.

They are hooks of the base model, since not every way to the model leads through the tuner:
PEFT's generic `PeftModel` and transformers' `add_adapter` call the base model itself.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lora2.mathematics.transforms import must_stay_plain
from lora2.tuners.base.checked_model import check_is_module
from lora2.tuners.base.distributed.dtensors import is_fully_sharding
from lora2.tuners.base.distributed.ranks import are_several
from lora2.tuners.base.distributed.whole import local_part
from lora2.tuners.base.model.placement import PlacedAdapter, find_adapters
from lora2.tuners.lora2.batched_factors import prepare_factors
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.model_loss import add_to_loss, has_loss, share_of_optimizer_batch
from lora2.tuners.lora2.penalty import penalty_of_layers
from lora2.tuners.lora2.penalty_delivery import PenaltyDelivery
from lora2.tuners.lora2.penalty_meter import PenaltyMeter
from lora2.tuners.lora2.precision import are_rounded, make_precise

_ATTRIBUTE = "lora2_training_hook"


class TrainingHook:
    """Prepares the factors, adds the weighted penalty to `outputs.loss`, and meters it."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        # The model and its adapted layers, so that not every step looks through all modules.
        self.known_layers: tuple[nn.Module, list[Lora2Layer]] | None = None
        self.meter = PenaltyMeter()
        self._delivery = PenaltyDelivery()
        # Whether the loss of the present forward pass holds the penalty already.
        self._has_joined = False
        # Whether somebody has asked for the penalty, to add it to a loss of their own.
        self.was_asked = False
        self._has_warned = False
        self._first_values: dict[str, Tensor] = {}

    def before_forward(self, model: nn.Module, args: Any) -> None:
        """Prepare the factors of the active adapters, and warn if nobody prunes one of them."""
        layers = self._layers(model)
        trains = model.training and torch.is_grad_enabled()
        if must_stay_plain():
            is_compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
            if trains and is_compiled and not is_fully_sharding():
                _make_trained_factors_precise(layers, model)
            return
        # FSDP2 reduces a module's gradients as soon as the backward pass has left it, and takes
        # care of dtypes itself: each layer computes its own factors.
        if not is_fully_sharding():
            if trains:
                _make_trained_factors_precise(layers, model)
            for name in _active_adapters(layers):
                prepare_factors(layers, name)
        if trains and not getattr(model, "_is_replica", False):
            for name, config in _trained_among(layers, model):
                self._warn_if_never_allocated(layers, name, config)
                self._warn_if_not_started(layers, name, config)

    def after_forward(
        self, model: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any
    ) -> Any:
        """Return the outputs; in training, with the penalty in their loss."""
        if not torch.compiler.is_compiling():
            for layer in self._layers(model):
                layer.lora2_prepared.end_forward()
        return self._with_penalty(model, model, kwargs, outputs)

    def join_loss_of(self, outer: nn.Module, model: nn.Module) -> list[RemovableHandle]:
        """Let the penalty join the loss of a module around the model, if the model returns none."""

        def before(module: nn.Module, args: Any) -> None:
            self._has_joined = False

        def after(module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
            if self._has_joined:
                return outputs
            return self._with_penalty(module, model, kwargs, outputs)

        return [
            outer.register_forward_pre_hook(before),
            outer.register_forward_hook(after, with_kwargs=True),
        ]

    def _with_penalty(
        self, returned_by: nn.Module, model: nn.Module, kwargs: dict[str, Any], outputs: Any
    ) -> Any:
        if not (returned_by.training and torch.is_grad_enabled() and has_loss(outputs)):
            return outputs
        penalty = _penalty_of(model, self._layers(model))
        if penalty is None:
            return outputs
        self._has_joined = True
        self.meter.losses_are_summed = kwargs.get("num_items_in_batch") is not None
        penalty = share_of_optimizer_batch(returned_by, kwargs) * penalty
        layers = self._layers(model)
        if are_several() and any(layer.lora2_recomputes for layer in layers):
            penalty = self._delivery.deliver(penalty, _trained_parameters(layers))
        # Replicas of torch's DataParallel would add up numbers of several devices and threads.
        if not getattr(model, "_is_replica", False):
            self.meter.add(penalty)
        return add_to_loss(outputs, penalty)

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
        first = next(layer for layer in layers if _trains(layer, name))
        if self._has_warned or first.lora2_states[name].is_allocated or not config.prunes:
            return
        adapted = [layer for layer in layers if layer.has_adapter(name)]
        matrices = [layer.matrix_size(name) for layer in adapted]
        if config.initial_budget(matrices) <= config.target_budget(matrices):
            return
        values = local_part(first.parameters_of(name)["lam"].detach())
        if not torch.equal(values, self._first_values.setdefault(name, values.clone())):
            self._has_warned = True
            warnings.warn(
                f"Adapter {name!r} has target_r={config.target_r}, but nothing prunes it: add "
                "Lora2Callback() to the trainer's callbacks, or call RankAllocator.step() "
                "after each optimizer step.",
                stacklevel=2,
            )

    def _warn_if_not_started(
        self, layers: list[Lora2Layer], name: str, config: Lora2Config
    ) -> None:
        """Once: an adapter that nobody has started from gradients learns from the default start."""
        if config.init_weights != "gradient":
            return
        first = next(layer for layer in layers if _trains(layer, name))
        state = first.lora2_states[name]
        if state.is_started:
            return
        # One that has been trained has been started, or is past it: it is not looked at again.
        state.is_started = True
        if not local_part(first.parameters_of(name)["V"].detach()).any():
            warnings.warn(
                f"Adapter {name!r} has init_weights='gradient', but nothing has started it: add "
                "Lora2Callback() to the trainer's callbacks, or call lora2.start_from_gradients "
                "before the first step.",
                stacklevel=2,
            )


def _make_trained_factors_precise(layers: list[Lora2Layer], model: nn.Module) -> None:
    """Undo what casts u, Λ and 𝒰 to half precision, such as `autocast_adapter_dtype=False`."""
    for name, _ in _trained_among(layers, model):
        holders = [layer for layer in layers if layer.has_effect(name)]
        # A cast reaches all layers: one is looked at, in each forward pass.
        if are_rounded(holders[0].parameters_of(name)):
            _make_precise(holders, name)


# A compiled graph cannot give a parameter another dtype; the model is compiled again after it.
@torch.compiler.disable(
    reason="u, Λ and 𝒰 are in half precision, in which they cannot be trained: call the model once "
    "in training mode before it is compiled with fullgraph=True"
)
def _make_precise(layers: list[Lora2Layer], adapter_name: str) -> None:
    for layer in layers:
        make_precise(layer.parameters_of(adapter_name))


def _active_adapters(layers: list[Lora2Layer]) -> list[str]:
    """Return the names of the adapters that take part in a forward pass."""
    for layer in layers:
        if not layer.disable_adapters and not layer.merged:
            return list(layer.active_adapters)
    return []


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
    # It is set here, because a compiler would take a later change for a new model.
    hook.known_layers = (model, _layers_in(model))


def remove(model: nn.Module) -> None:
    """Leave the base model as it was before `install`."""
    hook = installed(model)
    if hook is not None:
        for handle in hook.handles:
            handle.remove()
        delattr(model, _ATTRIBUTE)


def installed(model: nn.Module) -> TrainingHook | None:
    """Return the hook of a base model, or of the first base model inside a module."""
    return next(iter(hooks_in(model)), None)


def hooks_in(model: nn.Module) -> dict[TrainingHook, nn.Module]:
    """Return the hooks of all base models inside a module, each with its base model.

    Raises:
        UserError: the model is none of torch.
    """
    check_is_module(model)
    return {
        vars(module)[_ATTRIBUTE]: module
        for module in model.modules()
        if vars(module).get(_ATTRIBUTE) is not None
    }


def trained_adapters(model: nn.Module) -> list[PlacedAdapter[Lora2Config]]:
    """Return the active, enabled adapters that have a trainable parameter."""
    return [adapter for adapter in find_adapters(model, Lora2Config) if adapter.is_trained]


def _layers_in(model: nn.Module) -> list[Lora2Layer]:
    return [module for module in model.modules() if isinstance(module, Lora2Layer)]


def _trained_among(layers: list[Lora2Layer], model: nn.Module) -> list[tuple[str, Lora2Config]]:
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    return [
        (name, config)
        for name, config in configs.items()
        if isinstance(config, Lora2Config) and _is_trained(layers, name)
    ]


def _trained_parameters(layers: list[Lora2Layer]) -> list[nn.Parameter]:
    return [
        parameter
        for layer in layers
        for adapter_name in layer.lora2_states
        for parameter in layer.parameters_of(adapter_name).values()
        if parameter.requires_grad
    ]


def _is_trained(layers: list[Lora2Layer], adapter_name: str) -> bool:
    # torch 2.8 compiles no generator here.
    for layer in layers:  # noqa: SIM110
        if _trains(layer, adapter_name):
            return True
    return False


def _trains(layer: Lora2Layer, adapter_name: str) -> bool:
    # A layer of which nothing is left trains nothing.
    return layer.has_effect(adapter_name) and layer.trains(adapter_name)


def has_penalty(config: object) -> bool:
    """Return whether an adapter with this config puts a penalty on the loss."""
    return isinstance(config, Lora2Config) and config.has_penalty


def weighted_penalty(model: nn.Module) -> Tensor | None:
    """Return Σ orth_reg_weight · R over the trained adapters, a scalar; None where there is none.

    model: any module with LoRA² adapters inside. The penalty is in the model's `outputs.loss`
    already; add it to a loss that you compute yourself.
    """
    penalties = []
    for hook, base in hooks_in(model).items():
        hook.was_asked = True
        penalty = _penalty_of(base, _layers_in(base))
        if penalty is not None:
            penalties.append(penalty)
    # The base models may be on different devices.
    return torch.stack([p.to(penalties[0].device) for p in penalties]).sum() if penalties else None


def _penalty_of(model: nn.Module, layers: list[Lora2Layer]) -> Tensor | None:
    """The weighted penalty of one base model with these adapted layers."""
    if not any(map(has_penalty, getattr(model, "peft_config", {}).values())):
        return None
    terms = [
        config.orth_reg_weight * penalty_of_layers(layers, name, config)
        for name, config in _trained_among(layers, model)
        if has_penalty(config)
    ]
    return torch.stack(terms).sum() if terms else None
