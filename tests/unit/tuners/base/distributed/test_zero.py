"""What is known of parameters under DeepSpeed ZeRO, with stand-ins for what it adds to them."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lora2.tuners.base.distributed import zero
from lora2.tuners.base.distributed.added_once import add_once
from lora2.tuners.base.distributed.gathering import is_plain


@pytest.fixture(autouse=True)
def deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed seems to have been imported."""
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("mark", "is_partitioned"), [("ds_id", True), ("_hp_mapping", False), (None, None)]
)
def test_marks_of_deepspeed_are_known(mark: str | None, is_partitioned: bool | None) -> None:
    (parameter,) = parameters((2, 3))
    if mark is not None:
        setattr(parameter, mark, 0)

    assert zero.is_trained_by_zero(parameter) == (mark is not None)
    assert zero.is_partitioned(parameter) == bool(is_partitioned)
    assert is_plain([parameter]) == (mark is None)


def test_recorded_gradients_are_sums_over_the_micro_batches() -> None:
    first, second = parameters((2, 3), (4,))
    recorded = zero.RecordedGradients([first, second])
    assert recorded.is_empty
    batches = [torch.randn(2, 3) for _ in range(3)]
    for batch in batches:
        (first * batch).sum().backward()
        # DeepSpeed clears them within the backward pass.
        first.grad = None

    means = recorded([first, second])

    torch.testing.assert_close(means[0], sum(batches, torch.zeros(2, 3)))
    # No batch has reached it.
    torch.testing.assert_close(means[1], torch.zeros(4))
    recorded.clear()
    assert recorded.is_empty
    recorded.stop()
    (first * batches[0]).sum().backward()
    assert recorded.is_empty


@pytest.mark.parametrize("mark", ["_zero_optimizer", "_z3_optimizer", None])
@pytest.mark.parametrize(
    ("most", "norm", "factor"),
    [
        (0.5, torch.tensor(2.0), 0.25),
        (0.5, 0.1, 1.0),
        (0.0, 2.0, 1.0),
        (0.5, None, 1.0),
        (0.5, torch.tensor(torch.inf), torch.nan),
    ],
)
def test_recorded_gradients_are_clipped_as_the_engine_clips(
    mark: str | None, most: float, norm: Tensor | float | None, factor: float
) -> None:
    (parameter,) = parameters((3,))
    recorded = zero.RecordedGradients([parameter])
    parameter.sum().backward()
    optimizer = SimpleNamespace(clip_grad=most, _global_grad_norm=norm)
    if mark is not None:
        setattr(parameter, mark, optimizer)
    else:
        # Without offloading, stages 1 and 2 leave nothing but their hook.
        parameter.register_post_accumulate_grad_hook(lambda parameter: optimizer.clip_grad)

    (gradient,) = recorded([parameter])

    torch.testing.assert_close(gradient, torch.full((3,), factor), equal_nan=True)


def test_multiplication_reaches_the_part_of_the_precise_copy() -> None:
    (parameter,) = parameters((2, 3))
    before = parameter.detach().clone()
    # This process has the numbers 2 to 4 of six, with more precision.
    precise = before.flatten()[2:5].double() + 1e-12
    copy = precise.clone()
    parameter._hp_mapping = SimpleNamespace(
        hp_fragment=copy, lp_fragment_address=SimpleNamespace(start=2, numel=3)
    )
    factor = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])

    zero.multiply(parameter, factor)

    torch.testing.assert_close(parameter.detach(), before * factor)
    torch.testing.assert_close(copy, precise * torch.tensor([1.0, 0.0, 1.0]).double())


def test_multiplication_is_right_where_this_process_has_no_part() -> None:
    (parameter,) = parameters((3,))
    before = parameter.detach().clone()
    parameter._hp_mapping = None

    zero.multiply(parameter, torch.tensor([0.0, 1.0, 1.0]))

    torch.testing.assert_close(parameter.detach(), before * torch.tensor([0.0, 1.0, 1.0]))


def test_a_hook_adds_to_one_gradient_alone() -> None:
    (parameter,) = parameters((2,))
    add_once(parameter, torch.ones(2))
    seen: list[Tensor] = []
    for _ in range(2):
        parameter.sum().backward()
        assert parameter.grad is not None
        seen.append(parameter.grad)
        parameter.grad = None

    torch.testing.assert_close(torch.stack(seen), torch.tensor([[2.0, 2.0], [1.0, 1.0]]))


def test_gradients_are_recorded_with_what_a_later_hook_adds() -> None:
    """As the gradient of a penalty, which joins in the backward pass."""
    (parameter,) = parameters((2,))
    recorded = zero.RecordedGradients([parameter])
    for _ in range(2):
        add_once(parameter, torch.ones(2))
        parameter.sum().backward()
        parameter.grad = None

    torch.testing.assert_close(recorded([parameter])[0], torch.full((2,), 4.0))


def test_partitioned_parameters_take_the_place_of_what_is_left_of_them() -> None:
    model = nn.Linear(2, 2)
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.weight.ds_id = 0
    left = {"weight": torch.zeros(0), "bias": whole["bias"], "note": "text"}

    held = zero.with_partitioned(model, left)

    assert held["weight"] is model.weight
    assert held["bias"] is whole["bias"]
    assert held["note"] == "text"
