"""What would make the host wait for a GPU, seen without one: the operations of a training step.

On a GPU itself `tests/gpu` asks CUDA; here every operation of a step is looked at on the CPU.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lora2 import Lora2Config, RankAllocator
from lora2.mathematics import inverse_square_root
from unit.models import DeepMlp

aten = torch.ops.aten
# Results that the host must have before it goes on, and Python numbers made into a tensor, which
# are copied to the device: a list of positions is one of those.
_WAITS = {
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select,
    aten.unique_dim, aten._linalg_eigh, aten.lift_fresh,
}  # fmt: skip


class _Watch(TorchDispatchMode):
    """Collects the operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        if function.overloadpacket in _WAITS:
            self.waits.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("importance", ["reduced", "full"])
@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_a_training_step_asks_the_device_for_nothing(
    orthogonality: str, importance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eigenvalues are the CPU's way.
    monkeypatch.setattr(inverse_square_root, "ByEigenvalues", inverse_square_root.ByProducts)
    config = Lora2Config(
        target_modules=["lin0", "lin1"], k=2, init_r=4, target_r=2, tinit=0, tfinal=0,
        orthogonality=orthogonality, importance=importance,
    )  # fmt: skip
    model = get_peft_model(DeepMlp(), config).train()
    allocator = RankAllocator(model, total_steps=10)
    x = torch.randn(3, 6)
    with _Watch() as watch:
        penalty = model.base_model.weighted_penalty()
        loss = model(x).square().mean()
        (loss if penalty is None else loss + penalty).backward()
        allocator.step()
    assert watch.operations > 100
    assert watch.waits == []
    assert allocator.kept == allocator.budget


@pytest.mark.parametrize(
    "read",
    [float, bool, lambda x: x.new_tensor([1.0]), lambda x: x.expand(3)[[2, 1]]],
    ids=["float", "bool", "tensor of numbers", "list of positions"],
)
def test_the_watch_sees_what_waits(read: Callable[[Tensor], object]) -> None:
    with _Watch() as watch:
        read(torch.ones(()))
    assert len(watch.waits) == 1
