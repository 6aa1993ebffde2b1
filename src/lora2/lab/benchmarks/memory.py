"""Section `memory`: peak memory of training steps, each method in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from lora2.errors import UserError
from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.methods import names_for
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.steps import describe
from lora2.lab.benchmarks.workloads import Workload

MODELS = ("minilm", "deberta", "llama")

# With glibc, tensors from 64 KiB on then leave the process as soon as they are freed: its resident
# set is what is alive, not what an allocator keeps for later.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure(options: BenchArguments, workload: Workload, watch: Watch) -> dict[str, Any]:
    """Return bytes by method: the peak of three steps, and how much they add to what was there."""
    size = asdict(options.size(workload))
    probed = {}
    names = names_for(workload, options.method_names)
    with watch(f"{workload.label}, memory", len(names)) as tick:
        for name in names:
            probed[name] = _probe(
                workload=asdict(workload),
                method=name,
                adapter=asdict(options.adapter),
                dtype=options.dtype,
                device=options.device,
                threads=options.threads,
                **size,
            )
            tick()
    return {**describe(workload, size), "bytes": probed}


def _probe(**what: Any) -> dict[str, int]:
    command = [sys.executable, "-m", "lora2.lab.benchmarks.memory_probe", json.dumps(what)]
    environment = os.environ | _ALLOCATOR
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(
            f"memory: measuring {what['method']} ended early ({last[0]}); lower --batch_size or "
            "--length if memory ran out."
        )
    # Libraries may print before it.
    bytes_by_kind: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return bytes_by_kind
