"""Tensors alive at the peak of a training step on a CPU, by torch's profiler.

A resident set moves with what the C library keeps; this counts what is allocated and not yet freed,
in three steps, above what the model, its adapter and the optimizer had before them.

    python scripts/live_memory.py --model llama --batch_size 10 --length 64
"""

from __future__ import annotations

import argparse
from itertools import repeat

from torch.profiler import ProfilerActivity, profile

from lora2.lab.benchmarks.methods import BENCHMARK_METHODS
from lora2.lab.benchmarks.timing import Step, training_step
from lora2.lab.benchmarks.trained_model import AdapterSize
from lora2.lab.benchmarks.workloads import WORKLOADS, BatchSize

_WARM_UP, _STEPS = 2, 3
_MIB = 1 << 20


def live_peak(step: Step) -> int:
    """Return bytes: the most that the steps had allocated at one time."""
    for _ in range(_WARM_UP):
        step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(_STEPS):
            step()
    events = profiled.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def main() -> None:
    """Print the peak of each method in MiB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama", choices=list(WORKLOADS))
    parser.add_argument("--methods", default="lora,lora2")
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    workload = WORKLOADS[options.model]
    batch = workload.batch(BatchSize(options.batch_size, options.length), "cpu")
    for name in options.methods.split(","):
        model = workload.build("float32", "cpu")
        prepared = BENCHMARK_METHODS[name].prepare(
            model, workload, AdapterSize(k=8, r=8), _WARM_UP + _STEPS
        )
        peak = live_peak(training_step(prepared, repeat(batch)))
        print(f"{name}: {peak / _MIB:,.1f} MiB")


if __name__ == "__main__":
    main()
