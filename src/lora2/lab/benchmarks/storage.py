"""Section `storage`: seconds to save, load and merge an adapter, and its bytes on disk."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.methods import prepare_all
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.ratios import spreads
from lora2.lab.benchmarks.shared_weights import copy_sharing_frozen_weights
from lora2.lab.benchmarks.steps import describe
from lora2.lab.benchmarks.timing import Step, seconds_of, without_garbage_collection
from lora2.lab.benchmarks.trained_model import TrainedModel
from lora2.lab.benchmarks.workloads import Workload

MODELS = ("minilm", "deberta", "llama")

_METHODS = ("lora", "adalora", "lora2")


def measure(options: BenchArguments, workload: Workload, watch: Watch) -> dict[str, Any]:
    """Return by method the bytes of the adapter, and the seconds of saving, loading, merging."""
    base = workload.build(options.dtype, options.device)
    prepared = prepare_all(base, workload, options.adapter, 1, _METHODS)
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"save": [], "load": [], "merge": []} for name in prepared
    }
    sizes: dict[str, int] = {}
    ticks = options.steps * len(prepared)
    with watch(f"{workload.label}, storage", ticks) as tick, without_garbage_collection():
        for number in range(options.steps):
            for name, method in prepared.items():
                with tempfile.TemporaryDirectory() as folder:
                    taken = _once(method, base, Path(folder), options.device)
                    sizes[name] = _bytes_below(Path(folder))
                if number >= options.warm_up:
                    for what, value in taken.items():
                        seconds[name][what].append(value)
                tick()
    return {
        **describe(workload, asdict(options.size(workload))),
        "bytes": sizes,
        "seconds": seconds,
        "summary": {name: spreads(by_action) for name, by_action in seconds.items()},
    }


def _once(
    prepared: TrainedModel, base: PreTrainedModel, folder: Path, device: str
) -> dict[str, float]:
    adapted = prepared.adapted
    assert adapted is not None
    fresh = copy_sharing_frozen_weights(base)
    # "auto" would look up the base model's vocabulary on the hub.
    actions: dict[str, Step] = {
        "save": lambda: adapted.save_pretrained(str(folder), save_embedding_layers=False),
        "load": lambda: PeftModel.from_pretrained(fresh, folder),
        "merge": adapted.merge_adapter,
    }
    taken = {name: seconds_of(action, device) for name, action in actions.items()}
    # The weights are those of the other methods too.
    adapted.unmerge_adapter()
    return taken


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
