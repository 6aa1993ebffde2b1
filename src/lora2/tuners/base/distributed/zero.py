"""Parameters that DeepSpeed ZeRO trains: their values, their gradients, and writing into them.

Stages 1 and 2 split the optimizer's full-precision copy of the parameters over the processes, stage
3 the parameters themselves. All of them step inside `backward` and clear the gradients there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lora2.tuners.base.distributed.added_once import add_once

_MODULE = "deepspeed"


def _may_train() -> bool:
    """Whether ZeRO may train something: it does not where nobody has imported DeepSpeed."""
    # A compiler is not to look at `sys.modules`: it would compile the model again after any import.
    return torch.compiler.is_compiling() or _MODULE in sys.modules


def is_trained_by_zero(tensor: Tensor) -> bool:
    """Whether ZeRO trains a parameter; where nobody has imported DeepSpeed, it trains none."""
    # Stage 3 marks parameters by the first, stages 1 and 2 by the second.
    return _may_train() and (hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"))


def is_any_trained_by_zero(tensors: Iterable[Tensor]) -> bool:
    """Whether ZeRO trains one of these."""
    return _may_train() and any(map(is_trained_by_zero, tensors))


def is_partitioned(tensor: Tensor) -> bool:
    """Whether several processes hold a part of a parameter each, as in stage 3."""
    return _may_train() and hasattr(tensor, "ds_id")


def local(tensor: Tensor) -> Tensor:
    """Return the part of a partitioned parameter that this process holds, flattened and padded."""
    partitioned: Any = tensor
    part: Tensor = partitioned.ds_tensor.data
    return part


def with_partitioned(model: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with partitioned parameters in place of what stage 3 leaves of them."""
    if not _may_train():
        return dict(tensors)
    held = {name: each for name, each in model.named_parameters() if is_partitioned(each)}
    return {
        name: held[name] if name in held and _is_empty(value) else value
        for name, value in tensors.items()
    }


@torch.no_grad()
def gathered(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of partitioned parameters as wholes; all processes must take part."""
    from deepspeed.runtime.zero import GatheredParameters

    # What a layer has gathered at present is its to partition again.
    with GatheredParameters([each for each in parameters if not each.numel()]):
        return [parameter.detach().clone() for parameter in parameters]


def writable(parameters: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Make partitioned parameters whole; what process 0 has written into them is kept."""
    if not any(map(is_partitioned, parameters)):
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    gathering: AbstractContextManager[Any] = GatheredParameters(list(parameters), modifier_rank=0)
    return gathering


def numbers_of(parameter: Any) -> int:
    """Return how many numbers a parameter has as a whole."""
    count: int = parameter.ds_numel if is_partitioned(parameter) else parameter.numel()
    return count


def gathered_in_graph(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return partitioned parameters as wholes; their gradients join those from the layers.

    A partitioned parameter takes a gradient only where a layer has gathered it. One that no layer
    reaches in this backward pass gets none from here, either.
    """
    anchor = torch.zeros((), requires_grad=True)
    return list(_Gather.apply(anchor, tuple(parameters)))


class _Gather(torch.autograd.Function):
    """Gathers, and hands the gradients to hooks of the parameters."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ctx.parameters = parameters
        return tuple(gathered(parameters))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None]:
        for parameter, gradient in zip(ctx.parameters, gradients, strict=True):
            if gradient is not None and parameter.requires_grad:
                add_once(parameter, gradient)
        return None, None


@torch.no_grad()
def multiply(parameter: Tensor, factor: Tensor) -> None:
    """Multiply a parameter in place by a whole factor of its size, in all copies that ZeRO has."""
    held: Any = parameter
    if is_partitioned(parameter):
        from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

        part = held.ds_tensor
        start = part.numel() * held.ds_process_group.rank()
        padding = part.numel() * held.ds_process_group.size() - factor.numel()
        mine = nn.functional.pad(factor.flatten(), (0, padding))[start : start + part.numel()]
        part.data.mul_(mine.view_as(part).to(part.device))
        precise = safe_get_local_fp32_param(held)
        safe_set_local_fp32_param(held, precise * mine.view_as(precise).to(precise))
        # Small parameters stay whole between the steps.
        if parameter.numel() == factor.numel():
            parameter.data.mul_(factor)
        return
    parameter.data.mul_(factor)
    if held._hp_mapping is not None:
        precise, place = held._hp_mapping.hp_fragment, held._hp_mapping.lp_fragment_address
        mine = factor.flatten().narrow(0, place.start, place.numel)
        precise.data.mul_(mine.to(precise))


class RecordedGradients:
    """Gradients of parameters, seen as they arise, since ZeRO keeps none.

    Costs the sum of each gradient over the micro-batches of a step. Called, it returns what
    `whole_gradients` returns for other parameters: the gradients of the whole batch, clipped as
    the engine has clipped them. With float16 they hold its loss scale, which is the same for all of
    them.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._sums: dict[int, Tensor] = {}
        self._handles = [
            parameter.register_hook(self._recorder_of(parameter)) for parameter in parameters
        ]

    def __call__(self, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """Return the mean gradient over the processes for each parameter; zeros where none was."""
        own = [self._sums.get(id(parameter)) for parameter in parameters]
        shapes = [_whole_shape(parameter) for parameter in parameters]
        flat = torch.cat(
            [
                torch.zeros(shape, device=parameter.device).flatten()
                if gradient is None
                else gradient.flatten().float()
                for gradient, shape, parameter in zip(own, shapes, parameters, strict=True)
            ]
        )
        if dist.is_initialized():
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
        flat *= _clipping_of(parameters[0])
        return [
            piece.view(shape)
            for piece, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)
        ]

    @property
    def is_empty(self) -> bool:
        """Whether no gradient has been seen since the last `clear`."""
        return not self._sums

    def clear(self) -> None:
        """Begin another step."""
        self._sums.clear()

    def stop(self) -> None:
        """See no further gradient."""
        for handle in self._handles:
            handle.remove()

    def _recorder_of(self, parameter: Tensor) -> Any:
        def record(gradient: Tensor) -> None:
            before = self._sums.get(id(parameter))
            seen = gradient.detach()
            self._sums[id(parameter)] = seen.clone() if before is None else before + seen

        return record


def _clipping_of(parameter: Any) -> float:
    """Return the factor by which ZeRO has clipped the gradients of this step.

    NaN where the norm is not finite: ZeRO leaves such a step out, and so do the sensitivities.
    """
    optimizer = _optimizer_of(parameter)
    most, norm = (getattr(optimizer, name, None) for name in ("clip_grad", "_global_grad_norm"))
    if not most or norm is None:
        return 1.0
    # ZeRO and torch's clip_grad_norm_ have this rule.
    return min(1.0, most / (float(norm) + 1e-6)) if math.isfinite(norm) else math.nan


def _optimizer_of(parameter: Any) -> Any:
    """Return ZeRO's optimizer of a parameter, None if it is not found."""
    for name in ("_z3_optimizer", "_zero_optimizer"):
        if hasattr(parameter, name):
            return getattr(parameter, name)
    # Stages 1 and 2 mark parameters only if the optimizer is offloaded. The hook by which they take
    # a gradient is a closure over the optimizer.
    hooks = getattr(parameter, "_post_accumulate_grad_hooks", None) or {}
    for hook in hooks.values():
        for cell in getattr(hook, "__closure__", None) or ():
            # A cell may be empty still.
            with suppress(ValueError):
                held = cell.cell_contents
                if hasattr(held, "clip_grad") and hasattr(held, "_global_grad_norm"):
                    return held
    return None


def _whole_shape(parameter: Any) -> torch.Size:
    shape: torch.Size = parameter.ds_shape if is_partitioned(parameter) else parameter.shape
    return shape


def _is_empty(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.numel()
