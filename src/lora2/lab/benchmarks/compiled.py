"""Section `compile`: torch.compile of the whole model, its graph breaks and its step time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import repeat
from typing import Any

import torch
from torch._dynamo.utils import counters

from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.methods import prepare_all
from lora2.lab.benchmarks.progress import Tick, Watch
from lora2.lab.benchmarks.ratios import ratio, spreads
from lora2.lab.benchmarks.shared_weights import copy_sharing_frozen_weights
from lora2.lab.benchmarks.steps import describe
from lora2.lab.benchmarks.timing import Step, interleaved, training_step
from lora2.lab.benchmarks.trained_model import TrainedModel
from lora2.lab.benchmarks.workloads import Batch, Workload

MODELS = ("minilm",)

# The model alone: the hook of `floor` would be a graph break of its own.
_BASE = "base"
_METHODS = ("lora", "lora2")
# The second shows whether the first one's graph serves again.
_COUNTED_STEPS = 2


def measure(
    options: BenchArguments, workload: Workload, watch: Watch, *, backend: str = "inductor"
) -> dict[str, Any]:
    """Return graph breaks and graphs of base, LoRA and LoRA², and seconds of compiled steps."""
    base = workload.build(options.dtype, options.device)
    size = options.size(workload)
    batch = workload.batch(size, options.device)
    prepared = {_BASE: TrainedModel(copy_sharing_frozen_weights(base))} | prepare_all(
        base, workload, options.adapter, options.steps + _COUNTED_STEPS, _METHODS
    )
    torch._dynamo.reset()
    steps: dict[str, Step] = {}
    graphs: dict[str, dict[str, int]] = {}
    ticks = len(prepared) * (_COUNTED_STEPS + options.steps)
    with watch(f"{workload.label}, compiled", ticks) as tick:
        for name, method in prepared.items():
            steps[name], graphs[name] = _compile(method, batch, tick, backend)
        seconds = interleaved(steps, **options.turns, tick=tick)
    return {
        **describe(workload, asdict(size)),
        "graphs": graphs,
        "seconds": seconds,
        "summary": {
            "seconds": spreads(seconds),
            "to_lora": asdict(ratio(seconds, "lora2", "lora")),
        },
    }


def _compile(
    prepared: TrainedModel, batch: Batch, tick: Tick, backend: str
) -> tuple[Step, dict[str, int]]:
    """Return the compiled step, and how often dynamo left a graph or made a new one for it."""
    counters.clear()
    model: Callable[..., Any] = torch.compile(prepared.model, backend=backend)
    step = training_step(replace(prepared, call=model), repeat(batch))
    for _ in range(_COUNTED_STEPS):
        step()
        tick()
    return step, {
        "breaks": sum(counters["graph_break"].values()),
        "graphs": counters["stats"]["unique_graphs"],
    }
