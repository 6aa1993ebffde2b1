"""The allocator's time for narrow and for wide matrices: what it scores does not depend on d."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from peft import get_peft_model
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR
from torch import nn

from lora2.lab.benchmarks.adapted_models import ADAPTER_NAME
from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.ratios import ratio, spreads
from lora2.lab.benchmarks.timing import Step, interleaved
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config

WIDTHS = (768, 3072)
MATRICES = 72
_ROUNDS, _WARM_UP = 100, 10


def measure(options: BenchArguments, watch: Watch) -> dict[str, Any]:
    """Return the seconds of one allocation by width d, for as many d × d matrices each."""
    steps = {str(d): allocation(d, options.k, options.r, options.device) for d in WIDTHS}
    with watch("allocation by width", len(steps) * (_ROUNDS + _WARM_UP)) as tick:
        seconds = interleaved(
            steps, rounds=_ROUNDS, warm_up=_WARM_UP, device=options.device, tick=tick
        )
    narrow, wide = steps
    return {
        "matrices": MATRICES,
        "seconds": spreads(seconds),
        "ratio": asdict(ratio(seconds, wide, narrow)),
    }


def allocation(d: int, k: int, r: int, device: str) -> Step:
    """Return one allocation step of an adapter on d × d matrices, with random gradients."""
    model = nn.Sequential(*(nn.Linear(d, d, bias=False, device="meta") for _ in range(MATRICES)))
    # The base weights are not computed with; one storage for all of them spares gigabytes.
    weight = nn.Parameter(torch.zeros(d, d, device=device), requires_grad=False)
    for layer in model:
        layer.weight = weight
    config = Lora2Config(
        k=k, init_r=r, target_r=r / 2, tinit=0, tfinal=0, target_modules=ALL_LINEAR
    )
    adapted = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    return RankAllocator(adapted, _ROUNDS + _WARM_UP + 1, ADAPTER_NAME).step
