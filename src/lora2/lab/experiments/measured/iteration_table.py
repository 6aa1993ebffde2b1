"""Table 2 from measured times."""

from __future__ import annotations

from collections.abc import Sequence

from lora2.lab.benchmarks.ratios import ratio, spread
from lora2.lab.experiments.measured.iteration_times import TIMED_METHODS
from lora2.lab.experiments.measured.times import MeasuredTimes
from lora2.lab.experiments.rendering.printout import Printout
from lora2.lab.experiments.tables.paper_numbers import TABLE2, paper_rows

_HEADING = (
    "task", "AdaLoRA, s", "LoRA², s", "LoRA² / AdaLoRA", "quartiles", "rounds",
    "paper: AdaLoRA, s", "paper: LoRA², s", "paper: LoRA² / AdaLoRA",
)  # fmt: skip
_NOTES = (
    "LoRA² in its default form, exactly orthonormal, with k = r = 8; AdaLoRA from 12 to 8 a "
    "matrix; both prune in every step.",
    "Seconds of whole training steps, both methods in turns on the same batches in one process; "
    "medians, and ratios within a round.",
    "The paper heads its table “time per epoch”; the numbers in it are seconds per iteration, on "
    "its own machine and model: only ratios compare.",
)


def iteration_table(times: Sequence[MeasuredTimes]) -> Printout:
    """Return the table, one line a task."""
    machines = sorted({each.measured_with for each in times})
    return Printout(
        TABLE2,
        "Seconds per iteration",
        _HEADING,
        tuple((_line(each),) for each in times),
        names=1,
        texts=1,
        notes=(*_NOTES, *(f"Measured with {machine}." for machine in machines)),
    )


def _line(times: MeasuredTimes) -> tuple[str, ...]:
    adalora, lora2 = (spread(times.seconds[name]).median for name in TIMED_METHODS)
    found = ratio(times.seconds, "lora2", "adalora")
    return (
        times.task,
        f"{adalora:.3f}",
        f"{lora2:.3f}",
        f"{found.median:.3f}",
        f"{found.lower:.3f} to {found.upper:.3f}",
        str(len(times.seconds["lora2"])),
        *_paper(times.task),
    )


def _paper(task: str) -> tuple[str, str, str]:
    row = paper_rows(TABLE2).get(task)
    if row is None:
        return "–", "–", "–"
    adalora, lora2 = row.values["adalora_s_per_it"], row.values["lora2_s_per_it"]
    assert adalora is not None
    assert lora2 is not None
    return f"{adalora:.2f}", f"{lora2:.2f}", f"{lora2 / adalora:.2f}"
