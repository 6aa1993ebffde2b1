"""What happens at each forward pass: factors are prepared, and in training the penalty is added.

They are hooks of the base model, since not every way to the model leads through the tuner:
PEFT's generic `PeftModel` and transformers' `add_adapter` call the base model itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lora2.mathematics.transforms import must_stay_plain
from lora2.tuners.base.checked_model import check_is_module
from lora2.tuners.base.distributed.dtensors import is_fully_sharded, is_fully_sharding
from lora2.tuners.base.distributed.gathering import is_sharded
from lora2.tuners.base.distributed.ranks import are_several
from lora2.tuners.base.layers.finding import modules_of_type
from lora2.tuners.lora2.batched_factors import prepare_factors
from lora2.tuners.lora2.forgotten_calls import ForgottenCalls
from lora2.tuners.lora2.frozen_empty import before_loading
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.model_loss import add_to_loss, has_loss, share_of_optimizer_batch
from lora2.tuners.lora2.penalty import penalty_of_model
from lora2.tuners.lora2.penalty_delivery import PenaltyDelivery
from lora2.tuners.lora2.penalty_meter import PenaltyMeter
from lora2.tuners.lora2.precise_parameters import are_rounded, check_is_precise, make_precise
from lora2.tuners.lora2.prepared_factors import ForwardPass
from lora2.tuners.lora2.trained_adapters import (
    active_among,
    trained_among,
    trained_parameters,
)

_ATTRIBUTE = "lora2_forward_hook"


class ForwardHook:
    """Prepares the factors, adds the weighted penalty to `outputs.loss`, and meters it."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        # The model and its adapted layers, so that not every step looks through all modules.
        self.known_layers: tuple[nn.Module, list[Lora2Layer]] | None = None
        self.forward_pass = ForwardPass()
        self.meter = PenaltyMeter()
        self._sharding = _Sharding()
        self._delivery = PenaltyDelivery()
        # Whether the loss of the present forward pass holds the penalty already.
        self._has_joined = False
        # Whether somebody has asked for the penalty, to add it to a loss of their own.
        self.was_asked = False
        self._forgotten = ForgottenCalls()

    def before_forward(self, model: nn.Module, args: Any) -> None:
        """Prepare the factors of the active adapters, and warn if nobody prunes one of them."""
        layers = self.layers_of(model)
        trains = model.training and torch.is_grad_enabled()
        if must_stay_plain():
            is_compiled = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
            if trains and is_compiled:
                _make_trained_factors_precise(layers, model, self._sharding)
            return
        self.forward_pass.with_gradients = torch.is_grad_enabled()
        if trains:
            _make_trained_factors_precise(layers, model, self._sharding)
        # FSDP2 reduces a module's gradients as soon as the backward pass has left it: each layer
        # computes its own factors.
        if not self._sharding.is_of(model, layers):
            for name in active_among(layers):
                prepare_factors(layers, name)
        if trains and not getattr(model, "_is_replica", False):
            for name, config in trained_among(layers, model):
                self._forgotten.warn(layers, name, config)

    def end_forward(self, model: nn.Module, args: Any, outputs: Any) -> None:
        """Note that the forward pass has ended, or has failed; `outputs` may be anything."""
        if not torch.compiler.is_compiling():
            self.forward_pass.with_gradients = False
            for layer in self.layers_of(model):
                layer.lora2_prepared.end_forward()

    def after_forward(
        self, model: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any
    ) -> Any:
        """Return the outputs; in training, with the penalty in their loss."""
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
        layers = self.layers_of(model)
        penalty = penalty_of_model(model, layers)
        if penalty is None:
            return outputs
        self._has_joined = True
        self.meter.losses_are_summed = kwargs.get("num_items_in_batch") is not None
        penalty = share_of_optimizer_batch(returned_by, kwargs) * penalty
        if self.forward_pass.recomputes and are_several():
            trained = trained_parameters(layers)
            # Other engines than DistributedDataParallel take several gradients of a parameter.
            if not (self._sharding.is_found or any(map(is_sharded, trained))):
                penalty = self._delivery.deliver(penalty, trained)
        # Replicas of torch's DataParallel would add up numbers of several devices and threads.
        if not getattr(model, "_is_replica", False):
            self.meter.add(penalty)
        return add_to_loss(outputs, penalty)

    def forget(self, adapter_name: str) -> None:
        """Know nothing of an adapter that has gone; another may get its name."""
        self._forgotten.forget(adapter_name)

    def layers_of(self, model: nn.Module) -> list[Lora2Layer]:
        """Return the adapted layers of the base model, or of a replica of it."""
        known = self.known_layers
        # A replica of torch's DataParallel has layers of its own, and a thread of its own.
        if known is None or known[0] is not model:
            return modules_of_type(model, Lora2Layer)
        return known[1]


class _Sharding:
    """Whether FSDP2 shards a model, without a look through its modules in each forward pass."""

    is_found = False

    def __init__(self) -> None:
        self._unsharded: nn.Parameter | None = None

    def is_of(self, model: nn.Module, layers: list[Lora2Layer]) -> bool:
        """Look once more only where the first factor is another tensor than the last time."""
        if self.is_found or not layers or not is_fully_sharding():
            return self.is_found
        # FSDP2 puts tensors of its own in the place of parameters, for good.
        first = next(iter(layers[0].first_tensors().values()), None)
        if first is None or first is not self._unsharded:
            self.is_found, self._unsharded = is_fully_sharded(model), first
        return self.is_found


def _make_trained_factors_precise(
    layers: list[Lora2Layer], model: nn.Module, sharding: _Sharding
) -> None:
    """Undo what casts u, Λ and 𝒰 to half precision, such as `autocast_adapter_dtype=False`."""
    for name, _ in trained_among(layers, model):
        holders = [layer for layer in layers if layer.has_effect(name)]
        # A cast reaches all layers: one is looked at, in each forward pass.
        if are_rounded(holders[0].parameters_of(name)):
            _make_precise(holders, name, model, sharding)


# A compiled graph cannot give a parameter another dtype; the model is compiled again after it.
@torch.compiler.disable(
    reason="u, Λ and 𝒰 are in half precision, in which they cannot be trained: call the model once "
    "in training mode before it is compiled with fullgraph=True"
)
def _make_precise(
    layers: list[Lora2Layer], adapter_name: str, model: nn.Module, sharding: _Sharding
) -> None:
    if sharding.is_of(model, layers):
        check_is_precise(layers[0].parameters_of(adapter_name), adapter_name)
        return
    for layer in layers:
        make_precise(layer.parameters_of(adapter_name))


def install(model: nn.Module) -> None:
    """Hook the base model, once however many adapters it gets."""
    hook = model.__dict__.get(_ATTRIBUTE)
    if hook is None:
        hook = ForwardHook()
        hook.handles = [
            model.register_forward_pre_hook(hook.before_forward),
            model.register_forward_hook(hook.end_forward, always_call=True),
            model.register_forward_hook(hook.after_forward, with_kwargs=True),
            model.register_load_state_dict_pre_hook(before_loading),
        ]
        setattr(model, _ATTRIBUTE, hook)
    # It is set here, because a compiler would take a later change for a new model.
    hook.known_layers = (model, modules_of_type(model, Lora2Layer))
    for layer in hook.known_layers[1]:
        layer.lora2_pass = hook.forward_pass


def remove(model: nn.Module) -> None:
    """Leave the base model as it was before `install`."""
    hook = installed(model)
    if hook is not None:
        for handle in hook.handles:
            handle.remove()
        delattr(model, _ATTRIBUTE)


def installed(model: nn.Module) -> ForwardHook | None:
    """Return the hook of a base model, or of the first base model inside a module."""
    return next(iter(hooks_in(model)), None)


def hooks_in(model: nn.Module) -> dict[ForwardHook, nn.Module]:
    """Return the hooks of all base models inside a module, each with its base model.

    Raises:
        UserError: the model is not a torch.nn.Module.
    """
    check_is_module(model)
    return {
        vars(module)[_ATTRIBUTE]: module
        for module in model.modules()
        if vars(module).get(_ATTRIBUTE) is not None
    }


def weighted_penalty(model: nn.Module) -> Tensor | None:
    """Return Σ orth_reg_weight · R over the trained adapters, a scalar; None where there is none.

    model: any module with LoRA² adapters inside. The penalty is in the model's `outputs.loss`
    already; add it to a loss that you compute yourself.
    """
    penalties = []
    for hook, base in hooks_in(model).items():
        hook.was_asked = True
        penalty = penalty_of_model(base, hook.layers_of(base))
        if penalty is not None:
            penalties.append(penalty)
    # The base models may be on different devices.
    return torch.stack([p.to(penalties[0].device) for p in penalties]).sum() if penalties else None
