"""`lora2 reproduce`: a table or figure of the paper from records, after making the missing ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser

from lora2.commands.option_parser import OptionParser
from lora2.errors import UserError
from lora2.lab.benchmarks.progress import watch_on
from lora2.lab.experiments.dry_run import plan
from lora2.lab.experiments.measured.measured_tables import MEASURED_TABLES
from lora2.lab.experiments.measured.step_table import with_steps
from lora2.lab.experiments.outputs import write_grid, write_page, write_table
from lora2.lab.experiments.place_arguments import PlaceArguments
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.rendering import markdown
from lora2.lab.experiments.rendering.plan import WIDTH, listing
from lora2.lab.experiments.rendering.printout import Printout, printout
from lora2.lab.experiments.reproduction import STEP_TIMES, ReproduceArguments, tables_of
from lora2.lab.experiments.running.display import display
from lora2.lab.experiments.running.feasibility import check_feasible
from lora2.lab.experiments.tables.grid import Grid
from lora2.lab.experiments.tables.paper_numbers import TABLE2
from lora2.lab.experiments.tables.summary import summarize
from lora2.reports.console import new_console, print_table
from lora2.support.extras import require
from lora2.support.files import check_takes_files
from lora2.training.options.idle_options import refuse_idle


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code: 1 if a run of the table has no result."""
    name, options, where = _ReproduceParser().read(arguments)
    folder = where.records_of(options.preset)
    records = RecordFolder(folder)
    console = new_console()
    if options.dry_run:
        if name in MEASURED_TABLES:
            raise UserError(f"dry_run: {name} has no runs; it is measured, in minutes.")
        _list(options.chosen.grid(options.request(name, folder)), records)
        return 0
    require("matplotlib.figure", extra="train")
    tables = options.tables(folder)
    # The user is to know before hours of training.
    check_takes_files("output_dir", tables)
    failed = 0
    if name in MEASURED_TABLES:
        written = _measure(name, options, where, tables, console)
    else:
        grid = _grid(options, name, folder)
        written = _make_grid(grid, where, records, tables, console)
        failed = len(records.missing(grid.descriptions()))
    page = write_page(
        f"LoRA²: preset {options.preset}",
        _grids_of_page(name, options, folder),
        list(_measured_tables(options, folder)),
        records.find,
        tables,
    )
    for path in (*written, page):
        console.print(f"Written: {path}", soft_wrap=True)
    if failed:
        print(f"Runs without a result: {failed}. The same command tries again.", file=sys.stderr)
        return 1
    return 0


def _grids_of_page(name: str, options: ReproduceArguments, folder: Path) -> Iterator[Grid]:
    """Yield all tables of the preset; only the one asked for has more seeds than the preset."""
    usual = replace(options, seeds=None)
    more = options if (options.seeds or 0) > options.chosen.seeds else usual
    for each in options.chosen.tables:
        with suppress(UserError):  # as Table 4 of a model whose matrices have no short names
            yield _grid(more if each == name else usual, each, folder)


def _grid(options: ReproduceArguments, name: str, folder: Path) -> Grid:
    grid = options.chosen.grid(options.request(name, folder))
    measured = options.chosen.step_times
    if measured is None:
        return grid
    rows = options.chosen.grid(options.request(measured, folder)).rows
    # A step takes as long at another learning rate.
    if [row.name for row in grid.rows] != [row.name for row in rows]:
        return grid
    return with_steps(grid, MEASURED_TABLES[STEP_TIMES].measured(options, folder))


def _make_grid(
    grid: Grid, where: PlaceArguments, records: RecordFolder, tables: Path, console: Console
) -> list[Path]:
    missing = records.missing(grid.descriptions())
    if missing:
        check_feasible(missing, where.place)
        with (
            display(console, grid.name, len(missing)) as shown,
            where.runner(records, shown.step, shown.finish) as runner,
        ):
            for _ in runner.each(runner.run, missing):
                pass
    print(markdown.render(printout(summarize(grid, records.find))))
    return list(write_grid(grid, records.find, tables))


def _measure(
    name: str, options: ReproduceArguments, where: PlaceArguments, tables: Path, console: Console
) -> list[Path]:
    folder, measured_table = where.records_of(options.preset), MEASURED_TABLES[name]
    missing = measured_table.missing(options, folder)
    steps = (options.rounds + 1) * sum(map(measured_table.methods, missing))
    with watch_on(console)("steps of all methods", steps) as tick:
        for each in missing:
            measured_table.measure(each, where.place, options.rounds, tick).write(folder)
    table = measured_table.table(measured_table.measured(options, folder))
    print(markdown.render(table))
    return list(write_table(table, tables))


def _measured_tables(options: ReproduceArguments, folder: Path) -> Iterator[Printout]:
    for each in MEASURED_TABLES.values():
        times = each.measured(options, folder)
        if times:
            yield each.table(times)


def _list(grid: Grid, records: RecordFolder) -> None:
    console = new_console()
    if not console.is_terminal:
        # A pipe is taken to be narrower than it is.
        console = new_console(width=max(WIDTH, console.width))
    for part in listing(grid, plan(grid, records.find)):
        if isinstance(part, Table):
            print_table(console, part)
        else:
            console.print(part)


def _check_effects(table: str, options: ReproduceArguments, typed: dict[str, Any]) -> None:
    if table in MEASURED_TABLES:
        refuse_idle(typed, ("seeds", "jobs", "launcher"), f"on {table}, which is measured here")
    else:
        refuse_idle(typed, ("rounds",), f"without {TABLE2} or {STEP_TIMES}")
    if options.dry_run:
        idle = ("output_dir", "jobs", "launcher", "threads", "work")
        refuse_idle(typed, idle, "with --dry_run, which makes no run")


class _ReproduceParser(OptionParser, HfArgumentParser):
    def __init__(self) -> None:
        super().__init__(
            prog="lora2 reproduce",
            usage="lora2 reproduce TABLE [options]",
            dataclass_types=[ReproduceArguments, PlaceArguments],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description="Make the runs of a table that have no record yet, and print the table. "
            "A run that was cut short is resumed, or begins again where it would end elsewhere.",
        )
        names = dict.fromkeys(name for preset in PRESETS.values() for name in tables_of(preset))
        self.add_argument("table", metavar="TABLE", help=f"one of {', '.join(names)}")

    def read(self, arguments: Sequence[str]) -> tuple[str, ReproduceArguments, PlaceArguments]:
        options, where, rest = self.parse_args_into_dataclasses(list(arguments))
        options.check()
        tables = tables_of(options.chosen)
        if rest.table not in tables:
            raise UserError(
                f"{rest.table!r} is none of {', '.join(tables)} (of the preset {options.preset})."
            )
        where.check()
        typed = self.typed(arguments)
        where.check_effects(typed)
        _check_effects(rest.table, options, typed)
        return rest.table, options, where
