"""On a GPU: what a training step asks of the device, as well as the time it takes."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from lora2.lab.benchmarks.timing import Step


def launches_per_step(step: Step) -> int:
    """Return the kernels, copies and fills that one call puts on the CUDA device."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = profiler.events() or []
    # The optimizer marks its span on the device too.
    on_device = [event for event in events if event.device_type.name == "CUDA"]
    return sum(not event.is_user_annotation for event in on_device)
