"""Training by DeepSpeed's engine, which steps and clears gradients itself, for `engine_run.py`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import deepspeed
import torch
from engine_run import STEPS, Training, adapted_model, batch

from lora2 import RankAllocator

# DeepSpeed compiles an operation for messages between processes of one machine; gloo does as well.
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def settings(engine: str) -> dict[str, object]:
    """What DeepSpeed's JSON file holds; with -split, no small parameter stays whole."""
    name, *options = engine.split("-")
    zero: dict[str, object] = {"stage": int(name.removeprefix("zero"))}
    if "split" in options:
        zero["stage3_param_persistence_threshold"] = 0
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2 if "accumulated" in options else 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class ZeroTraining(Training):
    """Each process calls the engine; its checkpoint is a folder of parts."""

    def __init__(self, engine: str, form: str) -> None:
        self.processes, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        self.model = adapted_model(form)
        self.evaluates = False
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.micro_batches = 2 if "accumulated" in engine.split("-") else 1
        self.called, self.optimizer, _, _ = deepspeed.initialize(
            model=self.model,
            optimizer=torch.optim.AdamW(trained, lr=5e-3),
            config=settings(engine),
        )
        self.allocator = RankAllocator(self.called, STEPS, resumable=True)

    def run(self, first: int, last: int) -> Iterator[int]:
        for step in range(first, last):
            mine = batch(step).chunk(self.processes)[self.rank]
            for part in mine.chunk(self.micro_batches):
                self.called.backward(self.called(input_ids=part, labels=part, use_cache=False).loss)
                # It does nothing before the last micro-batch.
                self.called.step()
            self.allocator.step()
            yield step + 1

    def save(self, path: Path) -> None:
        self.called.save_checkpoint(str(path / "zero"))
        if self.rank == 0:
            torch.save(self.allocator.state_dict(), path / "checkpoint.pt")

    def load(self, path: Path) -> None:
        self.called.load_checkpoint(str(path / "zero"))
        self.allocator.load_state_dict(torch.load(path / "checkpoint.pt", weights_only=True))
