"""Factors that one computation made for many layers, and when a layer may use its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class PreparedFactors:
    """A and 𝒱 of one layer, valid as long as the tensors they come from are unchanged.

    Attributes:
        A: [k, d_in].
        V: 𝒱 [k, d_out], both in the dtype that the layer computes in.
        with_gradients: whether the model was called with gradients when they were made.
    """

    def __init__(
        self, A: Tensor, V: Tensor, made_from: Mapping[str, nn.Parameter], with_gradients: bool
    ) -> None:
        self.A, self.V, self.with_gradients = A, V, with_gradients
        self._made_from = [(each, each._version, each.requires_grad) for each in made_from.values()]

    def holds_for(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Whether these are the same tensors in the same order, unchanged since."""
        for (made_from, version, trained), parameter in zip(
            self._made_from, parameters.values(), strict=True
        ):
            if (
                parameter is not made_from
                or parameter._version != version
                or parameter.requires_grad != trained
            ):
                return False
        return True


class PreparedByAdapter(dict[str, PreparedFactors]):
    """Prepared factors by adapter name; a copy of the layer makes its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedByAdapter:
        return PreparedByAdapter()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedByAdapter, ()


@dataclass(frozen=True)
class PrivateGraph:
    """What was computed from copies of parameters that autograd takes for leaves.

    Attributes:
        leaves: the detached parameters.
        results: what was computed from them.
    """

    leaves: list[Tensor]
    results: list[Tensor]


class HandOut(torch.autograd.Function):
    """Hands the results of a private graph to any number of forward and backward passes.

    Each backward pass runs through the private graph and keeps it. The graph of a forward pass
    could not serve twice: autograd frees it in its first backward pass.
    """

    @staticmethod
    def forward(ctx: Any, graph: PrivateGraph, *parameters: nn.Parameter) -> tuple[Tensor, ...]:
        """Return the results; the parameters are those of the leaves, in their order."""
        ctx.set_materialize_grads(False)
        ctx.graph = graph
        return tuple(result.detach() for result in graph.results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the parameters."""
        graph: PrivateGraph = ctx.graph
        reached = [
            (result, gradient)
            for result, gradient in zip(graph.results, gradients, strict=True)
            if gradient is not None
        ]
        trained = [leaf for leaf in graph.leaves if leaf.requires_grad]
        if not reached:
            return None, *(None for _ in graph.leaves)
        found = iter(
            torch.autograd.grad(
                [result for result, _ in reached],
                trained,
                [gradient for _, gradient in reached],
                retain_graph=True,
                allow_unused=True,
            )
        )
        return None, *(next(found) if leaf.requires_grad else None for leaf in graph.leaves)
