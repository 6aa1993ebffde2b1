"""Adapters on weights that transformers' tensor parallelism has split over processes.

Every process has all factors, which are small, and the part of the activations that the base layer
has there. What the processes add up is as wide as the adapter's rank, and once a step as large as
one factor. The gradients of all factors are then the same in all processes, so that whatever reads
them, such as the allocator, needs to know nothing of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.dtensors import is_dtensor

_COLUMNS, _ROWS = "colwise", "rowwise"


@dataclass(frozen=True)
class Split:
    """How the weight of a linear layer is split.

    Attributes:
        plan: colwise, each process has some outputs; rowwise, each process has some inputs.
        group: the processes that have the parts.
    """

    plan: str
    group: Any

    def thin_products(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """Return what the factors add to the output that the base layer has here.

        colwise: x [..., d_in] → [..., d_out here]; rowwise: x [..., d_in here] → [..., d_out].
        """
        rows = x.reshape(-1, x.shape[-1])
        if self.plan == _COLUMNS:
            z = _SummedGradient.apply(rows @ A.mT, self.group)
            y = z @ self._part(B).mT
        else:
            z = _Sum.apply(rows @ self._part(A.mT), self.group)
            y = z @ B.mT
        return y.view(*x.shape[:-1], y.shape[-1])

    def _part(self, factor: Tensor) -> Tensor:
        """The rows of a factor for the outputs or inputs that are here."""
        processes, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        # As `distribute_tensor` splits the weight: equal chunks, of which the last may be short.
        size = -(-factor.shape[0] // processes)
        first = min(rank * size, factor.shape[0])
        last = min(first + size, factor.shape[0])
        part: Tensor = _SummedGradient.apply(factor, self.group)[first:last]
        return part


class _SummedGradient(torch.autograd.Function):
    """The same tensor; its gradient is the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed, group=ctx.group)
        return summed, None


class _Sum(torch.autograd.Function):
    """The sum over the processes, whose gradient each of them has already."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        summed = tensor.contiguous().clone()
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def split_of(model: nn.Module, target: nn.Module, module_name: str) -> Split | None:
    """Return how tensor parallelism has split the weight of a module; None if nothing has.

    model: what transformers has loaded, which knows the plan.

    Raises:
        UserError: it is split in a way to which an adapter cannot be added.
    """
    weight = getattr(target, "weight", None)
    if not isinstance(weight, Tensor) or not is_dtensor(weight):
        return None
    plan, mesh = _plan_and_mesh(model, module_name)
    if plan is None:
        raise UserError(
            f"The weight of {module_name} is split over several processes, and an adapter must be "
            "added before that: call fully_shard after get_peft_model."
        )
    if plan not in (_COLUMNS, _ROWS) or type(target) is not nn.Linear:
        raise UserError(
            f"The weight of {module_name} is split over several processes by the plan {plan!r}, "
            "and adapters know colwise and rowwise linear layers alone: leave it out of "
            "target_modules, or load the base model without tensor parallelism."
        )
    return Split(plan, mesh.get_group())


def group_of(model: nn.Module) -> Any:
    """Return the processes over which transformers has split weights of a model; None without."""
    if getattr(model, "_device_mesh", None) is None:
        return None
    for name, parameter in model.named_parameters():
        if is_dtensor(parameter):
            module_name = name.rpartition(".")[0].removesuffix(".base_layer")
            plan, mesh = _plan_and_mesh(model, module_name)
            if plan is not None:
                return mesh.get_group()
    return None


def _plan_and_mesh(model: nn.Module, module_name: str) -> tuple[str | None, Any]:
    try:
        from peft.tuners.lora.model import get_tp_plan_and_mesh
    except ImportError as error:
        raise UserError(
            f"The weight of {module_name} is split over several processes by tensor parallelism, "
            "for which adapters need PEFT 0.21.2 or newer: install it, or load the base model "
            "without tensor parallelism."
        ) from error
    found: tuple[str | None, Any] = get_tp_plan_and_mesh(model, module_name)
    return found


@torch.no_grad()
def share_start(parameters: list[nn.Parameter], group: Any) -> None:
    """Give all processes the values of the first: each may have drawn other random numbers."""
    for parameter in parameters:
        dist.broadcast(parameter.data, group=group, group_src=0)
