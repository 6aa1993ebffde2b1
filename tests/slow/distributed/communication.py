"""Counts what allocation sends under FSDP2 with two processes, and prints it as JSON.

It is run in a process of its own: once `fully_shard` has been called, lora2 prepares no factors in
this process.
"""

import json
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lora2 import Lora2Config, RankAllocator
from lora2.tuners.lora2.layer import lora2_layers

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
        for layer in lora2_layers(model, "default").values()
        for parameter in layer.parameters_of("default").values()
    )


def counting(messages: list[tuple[str, int]]) -> None:
    """Note the bytes of every message."""
    for name, position in (("all_gather", 1), ("all_reduce", 0), ("broadcast", 0)):
        original = getattr(dist, name)

        def counted(
            *args: Any, _name: str = name, _at: int = position, _send: Any = original, **named: Any
        ) -> Any:
            tensor: Tensor = args[_at]
            messages.append((_name, tensor.numel() * tensor.element_size()))
            return _send(*args, **named)

        setattr(dist, name, counted)


def main() -> None:
    # Its messages go nowhere.
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    model = sharded_model()
    allocator = RankAllocator(model, TOTAL)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sent: list[tuple[str, int]] = []
    counting(sent)
    by_step = []
    for _ in range(TOTAL):
        for parameter in trained:
            parameter.grad = torch.ones_like(parameter)
        sent.clear()
        allocator.step()
        by_step.append(list(sent))
    print(json.dumps({"by_step": by_step, "gradients": gradient_bytes(model)}))


if __name__ == "__main__":
    main()
