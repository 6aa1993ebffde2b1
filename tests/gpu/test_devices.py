"""On a GPU: nothing makes the host wait for the device, and a model may be split."""

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from lora2 import Lora2Config, RankAllocator
from lora2.mathematics.inverse_square_root import inverse_square_root
from unit.models import DeepMlp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("importance", ["reduced", "full"])
@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_training_step_does_not_wait(orthogonality: str, importance: str) -> None:
    config = Lora2Config(
        target_modules=["lin0", "lin1"], k=2, init_r=4, target_r=2, tinit=0, tfinal=0,
        orthogonality=orthogonality, importance=importance,
    )  # fmt: skip
    # No transformers model: theirs wait for the device themselves, to look at the mask.
    model = get_peft_model(DeepMlp(), config).cuda().train()
    allocator = RankAllocator(model, total_steps=10)
    x = torch.randn(3, 6, device="cuda")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    # The first step may wait while libraries are set up.
    for step in range(3):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            (model(x).square().mean() + _penalty(model)).backward()
            optimizer.step()
            allocator.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert allocator.kept == allocator.budget


def _penalty(model: nn.Module) -> Tensor | float:
    penalty = model.base_model.weighted_penalty()
    return 0.0 if penalty is None else penalty


@pytest.mark.parametrize("k", [2, 8, 24, 40])
def test_inverse_square_root_in_float32_and_its_gradient_are_those_of_float64(k: int) -> None:
    """Up to 2k = 64 rows in one kernel; k = 40 by products in the backward pass."""
    v = torch.randn(5, 200, k, dtype=torch.float64)
    gram, direction = v.mT @ v, torch.randn(5, k, k, dtype=torch.float64)
    results = []
    for one in (gram, gram.float().cuda()):
        one = one.detach().requires_grad_()
        root = inverse_square_root(one)
        (root * direction.to(one)).sum().backward()
        results.append((root.double().cpu(), one.grad.double().cpu()))
    for wanted, got in zip(*results, strict=True):
        assert (got - wanted).norm() < 1e-5 * wanted.norm()


def test_inverse_square_root_on_the_device_is_that_of_the_host() -> None:
    v = torch.randn(5, 30, 8, dtype=torch.float64)
    gram = v.mT @ v
    torch.testing.assert_close(inverse_square_root(gram.cuda()).cpu(), inverse_square_root(gram))


class _Split(nn.Module):
    """Two layers on two devices, as `device_map` places them."""

    def __init__(self) -> None:
        super().__init__()
        self.lin0, self.lin1 = nn.Linear(6, 6), nn.Linear(6, 6).cuda()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin1(self.lin0(x).cuda())


@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_a_model_that_is_split_over_devices_is_pruned(orthogonality: str) -> None:
    config = Lora2Config(
        target_modules=["lin0", "lin1"], k=2, init_r=4, target_r=1, orthogonality=orthogonality,
        init_weights=False, tinit=1, tfinal=1,
    )  # fmt: skip
    model = get_peft_model(_Split(), config).train()
    allocator = RankAllocator(model, total_steps=6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for _ in range(6):
        loss = model(torch.randn(3, 6)).square().mean()
        penalty = model.base_model.weighted_penalty()
        (loss if penalty is None else loss + penalty.to(loss.device)).backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    assert allocator.kept == allocator.budget == 2
