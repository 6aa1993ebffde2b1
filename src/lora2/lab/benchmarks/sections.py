"""The sections of the benchmark: what each measures, prints and draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from lora2.lab.benchmarks import (
    chart,
    compiled,
    memory,
    parts,
    report,
    steps,
    storage,
    sweeps,
    widths,
)
from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.progress import Watch
from lora2.lab.benchmarks.record import BenchmarkRecord, Result, make_record
from lora2.lab.benchmarks.workloads import Workload
from lora2.training.trainer.compilation import check_compiler


def _nothing_more(options: BenchArguments, watch: Watch) -> dict[str, Any]:
    return {}


def _widths(options: BenchArguments, watch: Watch) -> dict[str, Any]:
    return {"widths": widths.measure(options, watch)}


@dataclass(frozen=True)
class Section:
    """One thing to measure.

    Attributes:
        models: the workloads it is meant for.
        measure: measures one workload.
        tables: what is printed of a record.
        draw: draws a record.
        measure_more: measures what has no workload.
        check: raises UserError where it cannot run; given the device.
    """

    models: tuple[str, ...]
    measure: Callable[[BenchArguments, Workload, Watch], Result]
    tables: Callable[[BenchmarkRecord], list[Table]]
    draw: Callable[[BenchmarkRecord, Path], None]
    measure_more: Callable[[BenchArguments, Watch], dict[str, Any]] = _nothing_more
    check: Callable[[str], None] = lambda device: None

    def run(self, name: str, options: BenchArguments, watch: Watch) -> BenchmarkRecord:
        """Measure all workloads, and return their record."""
        chosen = options.workloads(self.models)
        results = [self.measure(options, workload, watch) for workload in chosen]
        return make_record(name, options, results, self.measure_more(options, watch))


SECTIONS: dict[str, Section] = {
    "steps": Section(steps.MODELS, steps.measure, report.steps_tables, chart.draw_steps),
    "memory": Section(memory.MODELS, memory.measure, report.memory_tables, chart.draw_memory),
    "storage": Section(storage.MODELS, storage.measure, report.storage_tables, chart.draw_storage),
    "parts": Section(parts.MODELS, parts.measure, report.parts_tables, chart.draw_parts, _widths),
    "sweeps": Section(sweeps.MODELS, sweeps.measure, report.sweeps_tables, chart.draw_sweeps),
    "compile": Section(
        compiled.MODELS,
        compiled.measure,
        report.compile_tables,
        chart.draw_compiled,
        check=check_compiler,
    ),
}
