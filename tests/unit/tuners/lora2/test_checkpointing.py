"""What checkpointing repeats in a backward pass has the gradients of a pass without it.

The model is called as a whole before or after a part of it is called by itself, so that a call and
its repetition may have the factors of different calls: prepared for all layers, or a layer's own.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from unit.mixtures import MIXTRAL, tokens
from unit.models import KIND_IDS, KINDS, LINEAR, Kind, disturb, gradient_checkpointing

Call = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def plainly(run: Callable[[Tensor], Tensor], one: Tensor) -> Tensor:
    return run(one)


CHECKPOINTED: dict[str, Call] = {
    "plain": partial(checkpoint, use_reentrant=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
}
every_checkpoint = pytest.mark.parametrize("call", CHECKPOINTED.values(), ids=[*CHECKPOINTED])


class Pair(nn.Module):
    """Two models of one kind, so that the factors of their layers are prepared together."""

    def __init__(self, kind: Kind, call: Call) -> None:
        super().__init__()
        self.first, self.second, self.call = kind.model(), kind.model(), call

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        return (self.part(x) if first is None else first) * self.second(x)

    def part(self, x: Tensor) -> Tensor:
        # Reentrant checkpointing wants an input with a gradient.
        one = torch.ones((), dtype=torch.float64, requires_grad=True)
        return self.call(lambda one: one * self.first(x), one)


def after_an_evaluation(model: Pair, x: Tensor) -> Tensor:
    with torch.no_grad():
        model(x)
    return model.part(x)


def before_the_whole(model: Pair, x: Tensor) -> Tensor:
    """As an encoder whose outputs are given to the model."""
    return model(x, model.part(x))


def evaluated_before_the_backward_pass(model: Pair, x: Tensor) -> Tensor:
    output: Tensor = model(x)
    with torch.no_grad():
        model.part(x)
    return output


def adapted_pair(kind: Kind, call: Call) -> tuple[Pair, Tensor]:
    torch.manual_seed(0)
    model = get_peft_model(Pair(kind, call), kind.config("k_above_r")).double()
    disturb(model)
    x = kind.inputs()
    pair = model.get_base_model()
    assert isinstance(pair, Pair)
    return pair, x.double() if x.is_floating_point() else x


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@every_checkpoint
@pytest.mark.parametrize(
    "calls",
    [after_an_evaluation, before_the_whole, evaluated_before_the_backward_pass],
    ids=lambda calls: calls.__name__,
)
@pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
def test_a_part_that_is_called_by_itself(
    kind: Kind, calls: Callable[[Pair, Tensor], Tensor], call: Call
) -> None:
    gradients = []
    for each in (call, plainly):
        model, x = adapted_pair(kind, each)
        calls(model, x).square().sum().backward()
        gradients.append([parameter.grad for parameter in trained(model)])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


@every_checkpoint
@pytest.mark.parametrize("fused", [False, True])
def test_a_part_follows_the_optimizer_after_an_evaluation(fused: bool, call: Call) -> None:
    """Fused optimizers leave the versions of tensors as they are."""
    values = []
    for each in (call, plainly):
        model, x = adapted_pair(LINEAR, each)
        optimizer = torch.optim.AdamW(trained(model), lr=0.1, fused=fused)
        with torch.no_grad():
            model(x)
        for _ in range(3):
            model.part(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        values.append(trained(model))
    for found, expected in zip(*values, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("may_be_changed", [False, True])
@pytest.mark.parametrize("kind", KINDS[:2], ids=KIND_IDS[:2])
def test_matrix_products_that_selective_checkpointing_keeps(
    kind: Kind, may_be_changed: bool
) -> None:
    contexts = partial(
        create_selective_checkpoint_contexts,
        [torch.ops.aten.mm.default, torch.ops.aten.addmm.default],
        allow_cache_entry_mutation=may_be_changed,
    )
    gradients = []
    for call in (partial(checkpoint, use_reentrant=False, context_fn=contexts), plainly):
        model, x = adapted_pair(kind, call)
        model(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in trained(model)])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_experts_are_trained_without_the_head_after_an_evaluation(use_reentrant: bool) -> None:
    gradients = []
    for is_checkpointed in (True, False):
        model = MIXTRAL.adapted().double().train()
        model.set_experts_implementation("eager")
        with torch.no_grad():
            model(tokens())
        part = model.get_base_model().model
        with gradient_checkpointing(model, use_reentrant) if is_checkpointed else nullcontext():
            part(tokens(), use_cache=False).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad for parameter in trained(model)])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
