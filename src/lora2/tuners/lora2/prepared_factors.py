"""Factors that one computation made for many layers, and when a layer may use its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.transforms import is_differentiated_again


class PreparedFactors:
    """A and 𝒱 of one layer, for a forward pass of the model and for what its backward pass repeats.

    They are valid as long as all that they come from is unchanged. After the forward pass nothing
    says whether it is: fused optimizers, and code that writes into `data`, do not change a tensor's
    version. So a later call of a part of the model drops them (`Lora2Layer`).

    Attributes:
        A: [k, d_in].
        V: 𝒱 [k, d_out], both in the dtype that the layer computes in.
        with_gradients: whether the model was called with gradients when they were made.
        is_over: whether that forward pass has ended.
    """

    def __init__(
        self,
        A: Tensor,
        V: Tensor,
        made_from: Mapping[str, nn.Parameter],
        scaling: float,
        with_gradients: bool,
    ) -> None:
        self.A, self.V, self.with_gradients = A, V, with_gradients
        self.is_over = False
        self._scaling = scaling
        self._made_from = [(each, each._version, each.requires_grad) for each in made_from.values()]

    def holds_for(self, parameters: Mapping[str, nn.Parameter], scaling: float) -> bool:
        """Whether a layer with these parameters and this scaling may use them.

        It may if nobody has replaced or changed a parameter. A model may scale its adapters within
        its forward pass, as those of diffusers do.
        """
        if scaling != self._scaling:
            return False
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


@dataclass
class ForwardPass:
    """What the layers of a model know of its present forward pass.

    Attributes:
        with_gradients: whether the model was called with gradients; false after the pass.
        recomputes: whether a layer was called without gradients in such a pass, as reentrant
            checkpointing does, which repeats the call in a backward pass of its own.
    """

    with_gradients: bool = False
    recomputes: bool = False


class PreparedByAdapter(dict[str, PreparedFactors]):
    """Prepared factors by adapter name; a copy of the layer makes its own."""

    def end_forward(self) -> None:
        """Note that the forward pass for which they were made has ended."""
        for prepared in self.values():
            prepared.is_over = True

    def __deepcopy__(self, memo: dict[int, Any]) -> PreparedByAdapter:
        return PreparedByAdapter()

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedByAdapter, ()


@dataclass(frozen=True)
class PrivateGraph:
    """What was computed from stacks of parameters, which autograd takes for leaves.

    Attributes:
        leaves: stacks of parameters, [layers, ...] each.
        results: stacks of what was computed from them, [layers, ...] each.
        rows: of each parameter, which row of all results it takes part in.
        make: computes such results from parameters, in the order in which `HandOut` has them.
    """

    leaves: list[Tensor]
    results: list[Tensor]
    rows: list[int]
    make: Callable[[Sequence[Tensor]], list[Tensor]]


class HandOut(torch.autograd.Function):
    """Hands the rows of a private graph's results to any number of forward and backward passes.

    Each backward pass runs through the private graph and keeps it. The graph of a forward pass
    could not serve twice: autograd frees it in its first backward pass.
    """

    @staticmethod
    def forward(ctx: Any, graph: PrivateGraph, *parameters: nn.Parameter) -> tuple[Tensor, ...]:
        """Return the rows of all results; the parameters are the rows of all leaves."""
        ctx.set_materialize_grads(False)
        ctx.graph = graph
        ctx.save_for_backward(*parameters)
        return tuple(row for result in graph.results for row in result.detach().unbind())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the parameters; None of a layer that the loss does not reach."""
        graph: PrivateGraph = ctx.graph
        wanted = [
            needed and gradients[row] is not None
            for needed, row in zip(ctx.needs_input_grad[1:], graph.rows, strict=True)
        ]
        if is_differentiated_again():
            return None, *_differentiable(graph, ctx.saved_tensors, wanted, gradients)
        rows = iter(gradients)
        reached = [
            (result, _stacked([next(rows) for _ in result], result)) for result in graph.results
        ]
        reached = [(result, gradient) for result, gradient in reached if gradient is not None]
        trained = [leaf for leaf in graph.leaves if leaf.requires_grad]
        found = iter(
            torch.autograd.grad(
                [result for result, _ in reached],
                trained,
                [gradient for _, gradient in reached],
                retain_graph=True,
                allow_unused=True,
            )
        )
        by_leaf = [next(found) if leaf.requires_grad else None for leaf in graph.leaves]
        by_parameter = [
            row
            for leaf, gradient in zip(graph.leaves, by_leaf, strict=True)
            for row in ([None] * len(leaf) if gradient is None else gradient.unbind())
        ]
        return None, *(
            row if want else None for row, want in zip(by_parameter, wanted, strict=True)
        )


def _differentiable(
    graph: PrivateGraph,
    parameters: Sequence[Tensor],
    wanted: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients of the parameters with a graph that leads to the parameters.

    The private graph ends at its leaves, so what it computed is computed once more.
    """
    made = [row for result in graph.make(parameters) for row in result.unbind()]
    reached = [
        (row, gradient)
        for row, gradient in zip(made, gradients, strict=True)
        if gradient is not None and row.requires_grad
    ]
    found = iter(
        torch.autograd.grad(
            [row for row, _ in reached],
            [parameter for parameter, want in zip(parameters, wanted, strict=True) if want],
            [gradient for _, gradient in reached],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if want else None for want in wanted]


def _stacked(rows: list[Tensor | None], like: Tensor) -> Tensor | None:
    """Return the rows as one tensor, zeros where one is missing; None if all are."""
    if all(row is None for row in rows):
        return None
    return torch.stack([torch.zeros_like(like[0]) if row is None else row for row in rows])
