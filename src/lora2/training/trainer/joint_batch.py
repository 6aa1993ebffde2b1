"""A run that is resumed by another number of processes keeps the rows of its optimizer steps."""

from __future__ import annotations

import dataclasses

from lora2.errors import UserError
from lora2.training.options.arguments import RunSettings
from lora2.training.options.sharding import DEEPSPEED, sharding_of

_ACCUMULATION = "gradient_accumulation_steps"


def with_joint_batch(settings: RunSettings, started_with: int, processes: int) -> RunSettings:
    """Return settings by which an optimizer step has as many rows as when the run was started.

    started_with, processes: numbers of processes, then and now.

    Raises:
        UserError: no number of accumulated micro-batches does that, or DeepSpeed trains the run,
            whose checkpoints have a part for each process.
    """
    if processes == started_with:
        return settings
    if DEEPSPEED in sharding_of(settings):
        raise UserError(
            f"resume: the run was started with {started_with} processes, and DeepSpeed resumes "
            f"with that number alone; this is {processes}."
        )
    before = int(settings.training.get(_ACCUMULATION, 1)) * started_with
    if before % processes:
        raise UserError(
            f"resume: the run was started with {started_with} processes and {before} micro-batches "
            f"to an optimizer step, which {processes} processes cannot share; start it with "
            f"{_numbers_that_divide(before)} processes."
        )
    training = settings.training | {_ACCUMULATION: before // processes}
    return dataclasses.replace(settings, training=training)


def _numbers_that_divide(whole: int) -> str:
    *others, last = [str(n) for n in range(1, whole + 1) if whole % n == 0]
    return f"{', '.join(others)} or {last}" if others else last
