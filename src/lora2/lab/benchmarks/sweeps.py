"""Section `sweeps`: step times as one size grows: k, r, adapted matrices, batch × length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any

from transformers import PreTrainedModel

from lora2.lab.benchmarks.bench_arguments import SWEEPS, BenchArguments
from lora2.lab.benchmarks.methods import BENCHMARK_METHODS
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.ratios import overhead, ratio, spread
from lora2.lab.benchmarks.shared_weights import copy_sharing_frozen_weights
from lora2.lab.benchmarks.steps import describe
from lora2.lab.benchmarks.timing import Step, interleaved, training_step
from lora2.lab.benchmarks.trained_model import AdapterSize
from lora2.lab.benchmarks.workloads import BatchSize, Workload

MODELS = ("minilm",)

WIDTHS_K = (1, 2, 4, 8, 16, 32)
RANKS_R = (8, 16, 32, 64)
# Parts of the layers, and of the batch and the length that `steps` has.
LAYER_PARTS = (0.25, 0.5, 1.0)
BATCH_PARTS = ((0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.5), (0.5, 2.0))

BATCH = "batch × length"
"""The sweep of rows and tokens, as tables head its first column."""

_METHODS = ("floor", "lora", "lora2")


@dataclass(frozen=True)
class SweepPoint:
    """One place on the horizontal axis of a sweep."""

    value: str
    adapter: AdapterSize
    batch: BatchSize


@dataclass(frozen=True)
class Sweep:
    """What grows, at which values."""

    name: str
    points: tuple[SweepPoint, ...]


def measure(options: BenchArguments, workload: Workload, watch: Watch) -> dict[str, Any]:
    """Return for each sweep the seconds by value and method, and their ratios."""
    base = workload.build(options.dtype, options.device)
    return {
        **describe(workload, asdict(options.size(workload))),
        "sweeps": {
            sweep.name: _measure_one(sweep, options, workload, base, watch)
            for key, sweep in sweeps(options, workload).items()
            if options.sweep in (None, key)
        },
    }


def sweeps(options: BenchArguments, workload: Workload) -> dict[str, Sweep]:
    """Return the four sweeps by the option's name; what does not grow is as the options say."""
    adapter, size = options.adapter, options.size(workload)
    layers = _distinct([max(1, round(part * workload.layers)) for part in LAYER_PARTS])
    sizes = _distinct(
        [
            BatchSize(
                max(1, round(rows * size.batch_size)),
                min(workload.longest, max(2, round(tokens * size.length))),
            )
            for rows, tokens in BATCH_PARTS
        ]
    )
    every = (
        Sweep("k", tuple(SweepPoint(str(k), AdapterSize(k, options.r), size) for k in WIDTHS_K)),
        Sweep("r", tuple(SweepPoint(str(r), AdapterSize(options.k, r), size) for r in RANKS_R)),
        Sweep(
            "adapted matrices",
            tuple(
                SweepPoint(
                    str(n * workload.matrices_per_layer),
                    AdapterSize(options.k, options.r, n),
                    size,
                )
                for n in layers
            ),
        ),
        Sweep(
            BATCH,
            tuple(SweepPoint(f"{s.batch_size} × {s.length}", adapter, s) for s in sizes),
        ),
    )
    return dict(zip(SWEEPS, every, strict=True))


def _measure_one(
    sweep: Sweep, options: BenchArguments, workload: Workload, base: PreTrainedModel, watch: Watch
) -> dict[str, Any]:
    steps = {
        f"{method} {point.value}": _step(method, point, options, workload, base)
        for point in sweep.points
        for method in _METHODS
    }
    with watch(f"{workload.label}, {sweep.name}", len(steps) * options.steps) as tick:
        seconds = interleaved(steps, **options.turns, tick=tick)
    first = f"lora2 {sweep.points[0].value}"
    points = {}
    for point in sweep.points:
        floor, lora, own = (f"{method} {point.value}" for method in _METHODS)
        points[point.value] = {
            "seconds": {
                name: asdict(spread(seconds[f"{name} {point.value}"])) for name in _METHODS
            },
            "to_floor": asdict(ratio(seconds, own, floor)),
            "to_lora": asdict(ratio(seconds, own, lora)),
            "to_first": asdict(ratio(seconds, own, first)),
            "overhead": asdict(overhead(seconds, own, lora, floor)),
        }
    return {"points": points, "seconds": seconds}


def _step(
    method: str,
    point: SweepPoint,
    options: BenchArguments,
    workload: Workload,
    base: PreTrainedModel,
) -> Step:
    model = copy_sharing_frozen_weights(base)
    prepared = BENCHMARK_METHODS[method].prepare(model, workload, point.adapter, options.steps)
    return training_step(prepared, repeat(workload.batch(point.batch, options.device)))


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
