"""The process that measures one method's peak memory: JSON as argument, JSON on its output."""

from __future__ import annotations

import json
import sys
from itertools import repeat
from typing import Any

import torch

from lora2.lab.benchmarks.methods import ALL_METHODS
from lora2.lab.benchmarks.resident import PeakResidentSet
from lora2.lab.benchmarks.timing import Step, training_step
from lora2.lab.benchmarks.trained_model import AdapterSize
from lora2.lab.benchmarks.workloads import BatchSize, Workload

# The first step makes the optimizer's state, the later ones have it.
_STEPS = 3


def probe(
    *,
    workload: dict[str, Any],
    method: str,
    adapter: dict[str, Any],
    dtype: str,
    device: str,
    threads: int,
    batch_size: int,
    length: int,
) -> dict[str, int]:
    """Return bytes: "peak" in all, and what the steps "added" to the model and its adapter."""
    if threads:
        torch.set_num_threads(threads)
    trained = Workload(**workload)
    model = trained.build(dtype, device)
    prepared = ALL_METHODS[method].prepare(model, trained, AdapterSize(**adapter), _STEPS)
    batch = trained.batch(BatchSize(batch_size, length), device)
    measure = _on_cuda if device == "cuda" else _on_cpu
    return measure(training_step(prepared, repeat(batch)))


def _on_cpu(step: Step) -> dict[str, int]:
    watched = PeakResidentSet()
    _run(step)
    peak = watched.finish()
    return {"peak": peak, "added": peak - watched.before}


def _on_cuda(step: Step) -> dict[str, int]:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _run(step)
    peak = torch.cuda.max_memory_allocated()
    return {"peak": peak, "added": peak - before}


def _run(step: Step) -> None:
    for _ in range(_STEPS):
        step()


if __name__ == "__main__":
    print(json.dumps(probe(**json.loads(sys.argv[1]))))
