"""A model with a pruning schedule and a loop that can stop anywhere, for the allocator's tests."""

from collections.abc import Iterator

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lora2 import Lora2Config, RankAllocator
from unit.models import DeepMlp, layers_of

TOTAL = 20
FIELDS = {
    "target_modules": ["lin0", "lin1"],
    "k": 3,
    "init_r": 4,
    "target_r": 1.5,
    "tinit": 4,
    "tfinal": 5,
    "deltaT": 3,
}
LAYERS = 6


def base_model() -> nn.Module:
    torch.manual_seed(0)
    return DeepMlp()


def pruned_model(**fields: object) -> PeftModel:
    base = base_model()
    torch.manual_seed(1)
    return get_peft_model(base, Lora2Config(**(FIELDS | fields)))


class Loop:
    """A training loop that can stop anywhere; every step has another batch."""

    def __init__(self, model: nn.Module, allocator: RankAllocator | None, lr: float = 0.02) -> None:
        self.model, self.allocator = model, allocator
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr)

    def run(self, first: int, last: int) -> Iterator[int]:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, 6, generator=generator)
            loss = (self.model(x) - x.flip(1)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.allocator is not None:
                self.allocator.step()
            yield step + 1


def kept_values(model: nn.Module) -> dict[str, list[bool]]:
    return {name: (m.lora2_lambda["default"] != 0).tolist() for name, m in layers_of(model).items()}


def count(kept: dict[str, list[bool]]) -> int:
    return sum(sum(values) for values in kept.values())
