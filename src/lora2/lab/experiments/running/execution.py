"""Runs one description in this process and returns its record."""

from __future__ import annotations

import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora2.data.named_tasks import IN_FILES
from lora2.errors import NumericalError, UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord, Status
from lora2.lab.experiments.running.cuts import score_cuts
from lora2.lab.experiments.running.forgetting import ability, lost
from lora2.reports.kept_values import initial_ranks
from lora2.support.error_text import one_line
from lora2.support.heap import keep_freed_memory
from lora2.training.on_disk.checkpoints import newest_complete
from lora2.training.on_disk.environment import describe_environment
from lora2.training.on_disk.records import evaluation_records
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_lock import FolderHeldError, held
from lora2.training.on_disk.summary import RunSummary
from lora2.training.options.arguments import RunSettings
from lora2.training.options.recipes import GENERAL
from lora2.training.prepare import PreparedRun, prepare
from lora2.training.resuming import why_not_resumed
from lora2.training.run import check_same_inputs, run, start_folder

Tick = Callable[[int, int], object]
"""Called after each optimizer step with steps done and steps in all."""

_KIB = 1024
_MACHINE = (
    "platform", "processor", "cpu_capability", "cpu_cores", "torch_threads", "accelerators",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where and with what a run is made; it decides nothing about the result but its time.

    Attributes:
        work: folder of checkpoints of unfinished runs.
        data_dir: folder of the GLUE files; None reads them from the hub.
        threads: CPU threads of one run; 0 leaves the choice to torch.
    """

    work: Path
    data_dir: str | None = None
    threads: int = 0

    def prepare_process(self) -> None:
        """Set the threads of this process, and let it keep freed memory; before training."""
        if self.threads:
            torch.set_num_threads(self.threads)
        keep_freed_memory()


def execute_run(description: RunDescription, place: Place, tick: Tick | None = None) -> RunRecord:
    """Train to the end and return the record; a mistake or fault becomes a record too.

    A run that was cut short resumes from its newest complete checkpoint, where it then ends as it
    would have, and else begins again; one that another process is making is left to it. Its folder
    stays, until the record is safe.
    """
    place.prepare_process()
    try:
        return _train(description, place, tick)
    except FolderHeldError as error:
        return RunRecord(description, "elsewhere", error=str(error))
    except Exception as error:
        # The other runs are made after any error; the traceback is for whoever looks into this one.
        traceback.print_exc(file=sys.stderr)
        status: Status = "diverged" if isinstance(error, NumericalError) else "failed"
        return RunRecord(description, status, error=one_line(error), machine=_machine())


def settings_of(description: RunDescription, place: Place) -> RunSettings:
    """Return the options of `lora2 train` that a description means."""
    return RunSettings.from_options(
        {
            **description.options,
            "model": description.model,
            "task": description.task,
            "method": description.method,
            "seed": description.seed,
            "data_dir": place.data_dir if description.task in IN_FILES else None,
            "output_dir": str(place.work / description.name),
            # Each evaluation has a checkpoint.
            "save_strategy": description.options.get("eval_strategy", "epoch"),
            "save_steps": description.options.get("eval_steps", 500),
            **{name: GENERAL[name] for name in ("save_total_limit", "logging_nan_inf_filter")},
        }
    )


def _train(description: RunDescription, place: Place, tick: Tick | None) -> RunRecord:
    settings = settings_of(description, place)
    folder = RunFolder(settings.folder)
    resumes = why_not_resumed(settings) is None
    try:
        prepared = prepare(settings)
    except NumericalError as error:
        # What was loaded is at fault: the run has not diverged, and is made again once it is right.
        raise UserError(str(error)) from error
    with held(folder):
        if not (resumes and _can_go_on(folder, prepared)):
            start_folder(prepared)
        before = ability(prepared)
        clock = _StepClock(prepared.steps, tick)
        summary = run(prepared, watch=lambda title, steps: nullcontext(clock))
        record = _record(description, prepared, summary, clock)
        batch_size = prepared.trainer.args.per_device_eval_batch_size
        validation = prepared.task.validation
        cuts = list(score_cuts(folder.path, description.cuts, validation, batch_size))
        forgotten = lost(prepared, before, ability(prepared))
        return replace(record, cuts=cuts, forgotten=forgotten)


def _can_go_on(folder: RunFolder, prepared: PreparedRun) -> bool:
    """Whether a run has a checkpoint, of a training on the data and the weights of now."""
    if not folder.is_run or newest_complete(folder.checkpoints)[0] is None:
        return False
    try:
        check_same_inputs(prepared)
    except UserError:
        return False
    return True


def _record(
    description: RunDescription, prepared: PreparedRun, summary: RunSummary, clock: _StepClock
) -> RunRecord:
    kept = summary.kept_singular_values
    return RunRecord(
        description,
        "finished",
        main_metric=prepared.main_metric,
        evaluations=evaluation_records(prepared.trainer.state.log_history),
        best=summary.best,
        last=summary.last,
        trainable_parameters=summary.trainable_parameters,
        final_parameters=summary.final_parameters,
        steps=summary.steps,
        resumed_from_step=summary.resumed_from_step,
        seconds=summary.seconds,
        seconds_per_step=clock.median,
        peak_memory=_peak_memory(),
        kept=kept,
        initial=_initial(kept, prepared.settings.adapter),
        versions=summary.versions,
        machine=_machine(),
        # The summary has 0 where no file is saved.
        file_bytes=summary.saved_bytes or None,
    )


def _initial(kept: Mapping[str, int], options: Mapping[str, Any]) -> int | None:
    """Return the singular values that each module started with, where all had the same number."""
    ranks = set((initial_ranks(kept, options) or {}).values())
    return ranks.pop() if len(ranks) == 1 else None


class _StepClock(TrainerCallback):
    """Seconds of each optimizer step, evaluations and checkpoints left out."""

    def __init__(self, steps: int, tick: Tick | None) -> None:
        self._steps = steps
        self._tick = tick
        self._seconds: list[float] = []
        self._started = 0.0

    @property
    def median(self) -> float | None:
        return statistics.median(self._seconds) if self._seconds else None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._seconds.append(time.perf_counter() - self._started)
        if self._tick is not None:
            self._tick(state.global_step, self._steps)


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _machine() -> dict[str, Any]:
    environment = describe_environment()
    return {name: environment[name] for name in _MACHINE}
