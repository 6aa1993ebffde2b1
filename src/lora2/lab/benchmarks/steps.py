"""Section `steps`: seconds of whole training steps, all methods in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import repeat
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer

from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.kernels import launches_per_step
from lora2.lab.benchmarks.methods import prepare_all
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.ratios import Seconds, overhead, ratio, spread
from lora2.lab.benchmarks.timing import interleaved, training_step
from lora2.lab.benchmarks.trained_model import TrainedModel
from lora2.lab.benchmarks.workloads import Workload
from lora2.tuners.base.layers.experts import ExpertsLayer

MODELS = ("minilm", "deberta", "llama")

BASELINES = ("floor", "lora", "adalora", "lora2-dense")
"""Methods that the others are divided by."""

# On a GPU one more step is counted, after the measured ones.
_COUNTED_STEPS = 1


def measure(options: BenchArguments, workload: Workload, watch: Watch) -> dict[str, Any]:
    """Return seconds by method and round, their ratios, and trained parameters."""
    base = workload.build(options.dtype, options.device)
    size = options.size(workload)
    prepared = prepare_all(
        base, workload, options.adapter, options.steps + _COUNTED_STEPS, options.method_names
    )
    batch = workload.batch(size, options.device)
    steps = {name: training_step(method, repeat(batch)) for name, method in prepared.items()}
    with watch(workload.label, len(steps) * options.steps) as tick:
        seconds = interleaved(steps, **options.turns, tick=tick)
    result = {
        **describe(workload, asdict(size)),
        "adapted_matrices": max(map(_adapted_matrices, prepared.values())),
        "parameters": {name: _parameters(method) for name, method in prepared.items()},
        "seconds": seconds,
        "summary": summarize(seconds),
    }
    if options.device == "cuda":
        result["kernel_launches"] = {name: launches_per_step(step) for name, step in steps.items()}
    return result


def describe(workload: Workload, size: Mapping[str, int]) -> dict[str, Any]:
    """Return which model and batch a result is of."""
    return {"model": workload.name, "label": workload.label, **size}


def summarize(seconds: Seconds) -> dict[str, dict[str, Any]]:
    """Return median and quartiles of each method: seconds, ratios to the baselines, overhead."""
    baselines = [name for name in BASELINES if name in seconds]
    summary: dict[str, dict[str, Any]] = {}
    for name, values in seconds.items():
        ratios = {other: asdict(ratio(seconds, name, other)) for other in baselines}
        summary[name] = {"seconds": asdict(spread(values)), "ratios": ratios}
        if {"floor", "lora"} <= seconds.keys():
            summary[name]["overhead"] = asdict(overhead(seconds, name))
    return summary


def _parameters(prepared: TrainedModel) -> int:
    return sum(parameter.numel() for parameter in prepared.parameters)


def _adapted_matrices(prepared: TrainedModel) -> int:
    # An ExpertsLayer is around the layers of its matrices.
    return sum(
        isinstance(module, BaseTunerLayer) and not isinstance(module, ExpertsLayer)
        for module in prepared.model.modules()
    )
