"""A penalty whose gradients join those that the parameters get from the layers.

Reentrant checkpointing runs a backward pass of its own for each block, and so may give a parameter
a gradient twice: from its block, and from a penalty that is a term of the loss. For
DistributedDataParallel that is an error. Here each parameter gets one gradient, the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lora2.tuners.base.distributed.added_once import add_once


class PenaltyDelivery:
    """Hands the gradients of penalties to the parameters, at their next gradient each."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def deliver(self, penalty: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return a scalar with the value of the penalty, to be added to the loss."""
        # A parameter that no layer used in the last pass still has its hook.
        self._remove_hooks()
        gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
        pairs = [pair for pair in zip(parameters, gradients, strict=True) if pair[1] is not None]
        anchor = torch.zeros((), requires_grad=True)
        delivered: Tensor = _Delivered.apply(anchor, penalty.detach(), partial(self._hook, pairs))
        return delivered

    def _hook(self, pairs: Sequence[tuple[nn.Parameter, Tensor]], weight: Tensor) -> None:
        for parameter, gradient in pairs:
            self._handles.append(add_once(parameter, weight.to(gradient.device) * gradient))

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Delivered(torch.autograd.Function):
    """The value; the backward pass, which comes here first, calls a function with its gradient."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor, receive: Any) -> Tensor:
        ctx.receive = receive
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.receive(gradient)
        return None, None, None
