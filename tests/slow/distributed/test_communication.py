"""What allocation adds to the messages between the processes of a training."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lora2 import Lora2Config, RankAllocator
from lora2.tuners.lora2.layer import adapted_layers

pytestmark = pytest.mark.slow

HIDDEN, INNER, RANK = 4096, 11008, 16
# The seven matrices of a layer of a Llama of 7B: inputs and outputs.
MATRICES = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (HIDDEN, HIDDEN),
    "v_proj": (HIDDEN, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (HIDDEN, INNER),
    "up_proj": (HIDDEN, INNER),
    "down_proj": (INNER, HIDDEN),
}
TOTAL = 10


@pytest.fixture
def two_processes() -> Iterator[None]:
    """A process group whose messages go nowhere: what is sent is counted."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every message with its bytes."""
    messages: list[tuple[str, int]] = []
    for name, position in (("all_gather", 1), ("all_reduce", 0), ("broadcast", 0)):
        original = getattr(dist, name)

        def counted(
            *args: Any, _name: str = name, _at: int = position, _send: Any = original, **named: Any
        ) -> Any:
            tensor: Tensor = args[_at]
            messages.append((_name, tensor.numel() * tensor.element_size()))
            return _send(*args, **named)

        monkeypatch.setattr(dist, name, counted)
    return messages


class Layer(nn.Module):
    """Matrices of the sizes of a layer, of one number each."""

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs) in MATRICES.items():
            linear = nn.Linear(inputs, outputs, bias=False, device="meta")
            weight = torch.zeros(1).expand(outputs, inputs)
            linear.weight = nn.Parameter(weight, requires_grad=False)
            self.add_module(name, linear)


def sharded_model() -> PeftModel:
    config = Lora2Config(
        k=RANK, init_r=RANK, target_r=RANK / 2, tinit=0, tfinal=2, deltaT=4,
        budget_schedule="constant", target_modules=list(MATRICES),
    )  # fmt: skip
    model = get_peft_model(Layer(), config)
    fully_shard(model, ignored_params={p for p in model.parameters() if not p.requires_grad})
    return model


def gradient_bytes(model: PeftModel) -> int:
    """What each process sends for the gradients of the adapter: its parts to the others."""
    return sum(
        parameter.numel() * parameter.element_size() // 2
        for layer in adapted_layers(model, "default").values()
        for parameter in layer.parameters_of("default").values()
    )


@pytest.mark.usefixtures("two_processes")
def test_allocation_adds_less_than_a_hundredth_of_the_gradients_messages(
    sent: list[tuple[str, int]],
) -> None:
    model = sharded_model()
    allocator = RankAllocator(model, TOTAL)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    by_step = []
    for _ in range(TOTAL):
        for parameter in trained:
            parameter.grad = torch.ones_like(parameter)
        sent.clear()
        allocator.step()
        by_step.append(list(sent))

    # The kept set is compared where it may change: at step 1, and then every fourth.
    unchanged = by_step[1]
    assert [name for name, _ in unchanged] == ["all_gather", "all_gather"]
    numbers = RANK * (2 * RANK + 1) * len(MATRICES)
    # Values and gradients, half of them here.
    assert sum(size for _, size in unchanged) == pytest.approx(2 * numbers * 4 / 2, rel=0.05)
    assert sum(size for _, size in unchanged) < 0.01 * gradient_bytes(model)
    changed = by_step[0]
    assert [name for name, _ in changed][2:] == ["broadcast", "all_reduce"]
    assert sum(size for _, size in changed[2:]) == RANK * len(MATRICES) + 1
    assert by_step[-1] == []
