"""Section `parts`: what orthogonality and allocation cost, as shares of a LoRA² step."""

from __future__ import annotations

from dataclasses import asdict
from itertools import repeat
from typing import Any

import torch

from lora2.lab.benchmarks.adapted_models import ADAPTER_NAME
from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.methods import prepare_all
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.ratios import Seconds, spreads
from lora2.lab.benchmarks.steps import describe
from lora2.lab.benchmarks.timing import Step, interleaved, training_step
from lora2.lab.benchmarks.trained_model import TrainedModel
from lora2.lab.benchmarks.workloads import Workload
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.batched_factors import prepare_factors
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.penalty import penalty_of_layers

MODELS = ("deberta", "decoder-504")

_METHODS = ("lora2", "lora2-penalty", "lora2-bare")
# A part takes milliseconds where a step takes seconds: one call would drown in the noise.
_CALLS = 5


def measure(options: BenchArguments, workload: Workload, watch: Watch) -> dict[str, Any]:
    """Return the seconds of a whole step and of its parts by round, and the parts' shares of it."""
    base = workload.build(options.dtype, options.device)
    size = options.size(workload)
    # Allocation is called more often than the step: its schedule must not end before.
    steps = (1 + _CALLS) * options.steps
    prepared = prepare_all(base, workload, options.adapter, steps, _METHODS)
    whole = training_step(prepared["lora2"], repeat(workload.batch(size, options.device)))
    with watch(f"{workload.label}, parts", 5 * options.steps) as tick:
        seconds = interleaved(
            {
                # The step comes first, since the allocator needs the gradients that it leaves.
                "step": whole,
                "allocation": _repeated(_allocation(prepared["lora2"])),
                "factors": _repeated(_factors(prepared["lora2"])),
                "factors, not orthonormal": _repeated(_factors(prepared["lora2-bare"])),
                "penalty": _repeated(_penalty(prepared["lora2-penalty"])),
            },
            **options.turns,
            tick=tick,
        )
    seconds = {name: _per_call(name, values) for name, values in seconds.items()}
    return {
        **describe(workload, asdict(size)),
        "adapted_matrices": len(lora2_layers(prepared["lora2"].model, ADAPTER_NAME)),
        "seconds": seconds,
        "summary": {
            "seconds": spreads(seconds),
            "shares": spreads(shares(seconds)),
        },
    }


def shares(seconds: Seconds) -> dict[str, list[float]]:
    """Return each part's share of the step of the same round.

    "exact orthogonality" is what factors cost more when they are made orthonormal.
    """
    step, allocation, penalty = seconds["step"], seconds["allocation"], seconds["penalty"]
    pairs = zip(seconds["factors"], seconds["factors, not orthonormal"], strict=True)
    exact = [made - plain for made, plain in pairs]
    both = [one + other for one, other in zip(exact, allocation, strict=True)]
    literal = [one + other for one, other in zip(penalty, allocation, strict=True)]
    parts = {
        "allocation": allocation,
        "exact orthogonality": exact,
        "penalty": penalty,
        "exact orthogonality and allocation": both,
        "penalty and allocation": literal,
    }
    return {
        name: [part / whole for part, whole in zip(values, step, strict=True)]
        for name, values in parts.items()
    }


def _allocation(prepared: TrainedModel) -> Step:
    assert isinstance(prepared.allocator, RankAllocator)
    return prepared.allocator.step


def _factors(prepared: TrainedModel) -> Step:
    """Forward and backward of all layers' factors as in training, without activations."""
    layers = list(lora2_layers(prepared.model, ADAPTER_NAME).values())

    def step() -> None:
        prepare_factors(layers, ADAPTER_NAME)
        made = [layer.product_factors(ADAPTER_NAME)[0] for layer in layers]
        torch.autograd.backward(made, [torch.ones_like(A) for A in made])

    return step


def _penalty(prepared: TrainedModel) -> Step:
    assert prepared.adapted is not None
    config: Any = prepared.adapted.peft_config[ADAPTER_NAME]
    assert isinstance(config, Lora2Config)
    layers = list(lora2_layers(prepared.model, ADAPTER_NAME).values())
    return lambda: penalty_of_layers(layers, ADAPTER_NAME, config).backward()


def _repeated(step: Step) -> Step:
    def repeated() -> None:
        for _ in range(_CALLS):
            step()

    return repeated


def _per_call(name: str, seconds: list[float]) -> list[float]:
    return seconds if name == "step" else [value / _CALLS for value in seconds]
