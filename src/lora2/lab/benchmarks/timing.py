"""Seconds of callables that take turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from lora2.lab.benchmarks.trained_model import TrainedModel
from lora2.lab.benchmarks.workloads import Batch

Step = Callable[[], object]

_LEARNING_RATE = 1e-4


def training_step(prepared: TrainedModel, batches: Iterable[Batch]) -> Step:
    """Return one whole training step: forward, backward, optimizer, allocation.

    batches: each step takes the next; there must be enough of them.
    """
    following = iter(batches)
    optimizer = torch.optim.AdamW(prepared.parameters, lr=_LEARNING_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        prepared.loss(next(following)).backward()
        optimizer.step()
        prepared.after_step()

    return step


def interleaved(
    steps: Mapping[str, Step],
    *,
    rounds: int,
    warm_up: int = 1,
    device: str = "cpu",
    tick: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; all take part in every round.

    Args:
        steps: by name.
        rounds: rounds that are measured.
        warm_up: rounds before them, whose times are thrown away.
        device: with "cuda", a step ends when the device has done its work.
        tick: called after every step.
    """
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with without_garbage_collection():
        for number in range(warm_up + rounds):
            for name in order_of_round(names, number):
                taken = seconds_of(steps[name], device)
                if number >= warm_up:
                    seconds[name].append(taken)
                tick()
    return seconds


def order_of_round(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of a round: each round begins with the next one."""
    start = number % len(names)
    return [*names[start:], *names[:start]]


def seconds_of(step: Step, device: str = "cpu") -> float:
    """Return the seconds that one call takes; see `without_garbage_collection`."""
    # Garbage of an earlier call must not be collected in this call's time.
    gc.collect()
    _wait_for(device)
    start = time.perf_counter()
    step()
    _wait_for(device)
    return time.perf_counter() - start


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collect garbage only by `gc.collect`, and among new objects alone, which is quick."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
