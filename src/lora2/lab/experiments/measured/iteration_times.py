"""Seconds per iteration of LoRA² and AdaLoRA on the batches of a task, in turns (Table 2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedModel

from lora2.data.tokenization.texts import tokenize_dataset
from lora2.errors import UserError
from lora2.lab.benchmarks.methods import AdapterSize, prepare_all
from lora2.lab.benchmarks.record import device_name
from lora2.lab.benchmarks.timing import interleaved, training_step
from lora2.lab.benchmarks.workloads import WORKLOADS, Batch, Workload
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.running.execution import Place, settings_of
from lora2.support.checked_files import read_json
from lora2.support.files import write_json_atomically
from lora2.support.heap import keep_freed_memory
from lora2.training.base_models.models import load_tokenizer
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.environment import versions

TIMED_METHODS = ("adalora", "lora2")
"""In the order of the paper's columns."""

ITERATIONS = "iteration-times"
"""The files of Table 2 begin with it."""

# Both have the sizes of the paper's rows "r=8" and "k=8".
_SIZE = AdapterSize(k=8, r=8)
_SEED = 0
# Batches that are kept; each round takes the next.
_KEPT = 64


@dataclass(frozen=True)
class IterationTimes:
    """What was measured on one task.

    Attributes:
        task: name of the task.
        model: the model whose weights and tokenizer were used.
        batch_size: rows of a batch.
        seconds: by method, or by row of a table, of whole training steps on the same batches: one
            number a round.
        threads: CPU threads of torch.
        device: name of the CPU or the card.
        versions: of Python and the packages.
        measured: what the file's name begins with. The rows of a table have another than Table 2,
            because two presets keep their records in one folder.
    """

    task: str
    model: str
    batch_size: int
    seconds: dict[str, list[float]]
    threads: int
    device: str
    versions: dict[str, str]
    measured: str = ITERATIONS

    def write(self, folder: Path) -> None:
        """Write the record, in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomically(file_of(folder, self.model, self.task, self.measured), asdict(self))


def file_of(folder: Path, model: str, task: str, measured: str = ITERATIONS) -> Path:
    """Return the file of a model's times on a task, which may not exist."""
    name = model.replace("/", "--")
    return folder / f"{measured}-{name}-{task}.json"


def read_times(
    folder: Path,
    description: RunDescription,
    rounds: int = 1,
    methods: Iterable[str] = TIMED_METHODS,
    measured: str = ITERATIONS,
) -> IterationTimes | None:
    """Return the times of a model on a task, None if they have not been measured.

    Args:
        folder: of the records.
        description: its model and task are read.
        rounds: so many at least.
        methods: all of these; more may be there.
        measured: what the file's name begins with.

    Raises:
        UserError: the file is damaged.
    """
    path = file_of(folder, description.model, description.task, measured)
    if not path.is_file():
        return None
    content = read_json(path, "it holds no measured times that can be read; remove it")
    try:
        times = IterationTimes(**content)
        found = min(map(len, times.seconds.values()))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} holds no measured times ({error}); remove it.") from error
    is_whole = found >= rounds and times.seconds.keys() >= set(methods)
    return times if times.model == description.model and is_whole else None


def measure(
    description: RunDescription,
    place: Place,
    rounds: int,
    tick: Callable[[], object] = lambda: None,
) -> IterationTimes:
    """Train with both methods in turns on the same batches, `rounds` steps each.

    description: model, task and its options; the method's own are not used.

    Raises:
        UserError: the data or the model cannot be had, or its architecture has no workload.
    """
    if place.threads:
        torch.set_num_threads(place.threads)
    keep_freed_memory()
    settings = settings_of(description, place)
    objective = objective_of(settings)
    task = objective.load_data(settings)
    loaded = objective.load_base(settings, task)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = loaded.model.to(device).requires_grad_(False).train()
    # What trains with every method.
    for name in loaded.new_modules:
        base.get_submodule(name).requires_grad_(True)
    # One round more warms up.
    prepared = prepare_all(base, _workload(base), _SIZE, rounds + 1, TIMED_METHODS)
    batch_size = settings.training["per_device_train_batch_size"]
    steps = {
        name: training_step(method, _batches(settings, task, batch_size, device))
        for name, method in prepared.items()
    }
    return IterationTimes(
        task=description.task,
        model=description.model,
        batch_size=batch_size,
        seconds=interleaved(steps, rounds=rounds, device=device, tick=tick),
        threads=torch.get_num_threads(),
        device=device_name(device),
        versions=versions(),
    )


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
