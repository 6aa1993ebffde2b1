"""`lora2 reproduce`: a table or figure of the paper from records, after making the missing ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from transformers import HfArgumentParser

from lora2.commands.parser import OptionParser
from lora2.errors import UserError
from lora2.experiments.arguments import PlaceArguments
from lora2.experiments.display import display
from lora2.experiments.dry_run import dry_run_table
from lora2.experiments.feasibility import check_feasible
from lora2.experiments.jobs import Runner
from lora2.experiments.outputs import write_outputs
from lora2.experiments.presets import small
from lora2.experiments.rates import read_choices
from lora2.experiments.record import RecordFolder
from lora2.experiments.rendering import markdown
from lora2.experiments.summary import summarize
from lora2.extras import require

Preset = Literal["small"]


@dataclass
class ReproduceArguments:
    """What is reproduced, and whether it is only shown."""

    preset: Preset = field(
        default="small",
        metadata={"help": "small: MiniLM on three tasks, minutes a run."},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "List the runs, and which have records; make none."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the tables and the page; beside the records."}
    )


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    name, options, where = _ReproduceParser().read(arguments)
    require("matplotlib.figure", extra="train")
    console = Console()
    folder = where.records_of(options.preset)
    records = RecordFolder(folder)
    grid = small.grid(name, read_choices(folder))
    missing = records.missing(grid.descriptions())
    if options.dry_run:
        console.print(dry_run_table(grid, records))
        return 0
    if missing:
        check_feasible(missing, where.place)
        with (
            display(console, grid.name, len(missing)) as shown,
            Runner(records, where.place, where.jobs, shown.step, shown.finish) as runner,
        ):
            for _ in runner.each(runner.run, missing):
                pass
    print(markdown.render(summarize(grid, records.find)))
    output = Path(options.output_dir) if options.output_dir else folder / "tables"
    for path in write_outputs(grid, records.find, output):
        console.print(f"Written: {path}", highlight=False, soft_wrap=True)
    return 0


class _ReproduceParser(OptionParser, HfArgumentParser):
    def __init__(self) -> None:
        super().__init__(
            prog="lora2 reproduce",
            usage="lora2 reproduce TABLE [options]",
            dataclass_types=[ReproduceArguments, PlaceArguments],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description="Make the runs of a table that have no record yet, and print the table. "
            "A run that was cut short goes on where it stopped.",
        )
        self.add_argument("table", metavar="TABLE", help=f"one of {', '.join(small.TABLES)}")

    def read(self, arguments: Sequence[str]) -> tuple[str, ReproduceArguments, PlaceArguments]:
        options, where, rest = self.parse_args_into_dataclasses(list(arguments))
        if rest.table not in small.TABLES:
            raise UserError(f"{rest.table!r} is none of {', '.join(small.TABLES)}.")
        where.check()
        return rest.table, options, where
