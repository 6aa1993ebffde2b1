"""Seconds per iteration of LoRA² and AdaLoRA on the batches of a task, in turns (Table 2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedModel

from lora2.data.tokenization.texts import tokenize_dataset
from lora2.errors import UserError
from lora2.lab.benchmarks.methods import prepare_all
from lora2.lab.benchmarks.timing import interleaved, training_step
from lora2.lab.benchmarks.trained_model import AdapterSize
from lora2.lab.benchmarks.workloads import WORKLOADS, Batch, Workload
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.measured.times import ITERATIONS, MeasuredTimes, read_times
from lora2.lab.experiments.running.execution import Place, settings_of
from lora2.training.base_models.preprocessors import load_tokenizer
from lora2.training.objectives.registry import objective_of

TIMED_METHODS = ("adalora", "lora2")
"""In the order of the paper's columns."""

# Both have the sizes of the paper's rows "r=8" and "k=8".
_SIZE = AdapterSize(k=8, r=8)
_SEED = 0
# Batches that are kept; each round takes the next.
_KEPT = 64


def read_iteration_times(
    folder: Path, description: RunDescription, rounds: int = 1
) -> MeasuredTimes | None:
    """Return the times of Table 2 on a task, None if so many rounds have not been measured.

    Raises:
        UserError: the file is damaged.
    """
    return read_times(folder, description, rounds, TIMED_METHODS, ITERATIONS)


def measure(
    description: RunDescription,
    place: Place,
    rounds: int,
    tick: Callable[[], object] = lambda: None,
) -> MeasuredTimes:
    """Train with both methods in turns on the same batches, `rounds` steps each.

    description: model, task and its options; the method's own are not used.

    Raises:
        UserError: the data or the model cannot be had, or its architecture has no workload.
    """
    place.prepare_process()
    settings = settings_of(description, place)
    objective = objective_of(settings)
    task = objective.load_data(settings)
    loaded = objective.load_base(settings, task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = loaded.model.to(device).requires_grad_(False).train()
    # New modules, such as the head, are trained with every method.
    for name in loaded.new_modules:
        base.get_submodule(name).requires_grad_(True)
    # One round more warms up.
    prepared = prepare_all(base, _workload(base), _SIZE, rounds + 1, TIMED_METHODS)
    batch_size = settings.training["per_device_train_batch_size"]
    steps = {
        name: training_step(method, _batches(settings, task, batch_size, device))
        for name, method in prepared.items()
    }
    seconds = interleaved(steps, rounds=rounds, device=device, tick=tick)
    return MeasuredTimes.measured_here(description, batch_size, seconds, device, ITERATIONS)


def _workload(model: PreTrainedModel) -> Workload:
    """Return the benchmark's workload of this architecture, for the names of its matrices."""
    model_type = model.config.model_type
    found = [each for each in WORKLOADS.values() if each.model_type == model_type]
    if not found:
        known = ", ".join(dict.fromkeys(each.model_type for each in WORKLOADS.values()))
        raise UserError(
            f"model: Table 2 is measured with models of type {known}, not {model_type}."
        )
    return found[0]


def _batches(settings: Any, task: Any, batch_size: int, device: str) -> Iterator[Batch]:
    """Return shuffled batches without end on the device, the same for every caller."""
    tokenizer = load_tokenizer(settings.model.model)
    rows = tokenize_dataset(task.train, tokenizer, settings.data.max_length)
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=DataCollatorWithPadding(tokenizer),
        generator=torch.Generator().manual_seed(_SEED),
    )
    kept = itertools.islice(loader, _KEPT)
    return itertools.cycle(
        [{name: tensor.to(device) for name, tensor in batch.items()} for batch in kept]
    )
