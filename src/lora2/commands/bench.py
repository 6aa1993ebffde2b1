"""`lora2 bench`: speed and memory of LoRA² and of PEFT's methods, measured side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import HfArgumentParser

from lora2.commands.option_parser import OptionParser
from lora2.errors import UserError
from lora2.lab.benchmarks.bench_arguments import BenchArguments
from lora2.lab.benchmarks.progress import watch_on
from lora2.lab.benchmarks.sections import SECTIONS, Section
from lora2.reports.console import new_console, print_table
from lora2.support.extras import require
from lora2.support.files import check_takes_files
from lora2.support.heap import keep_freed_memory
from lora2.training.options.idle_options import refuse_idle

_ALL = "all"


class _BenchParser(OptionParser, HfArgumentParser):
    def __init__(self) -> None:
        super().__init__(
            prog="lora2 bench",
            usage="lora2 bench [SECTION] [options]",
            dataclass_types=[BenchArguments],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description="Measure training with LoRA² next to PEFT's LoRA and AdaLoRA and a model "
            "without adapter. All methods take turns in one process, so ratios hold even where "
            "seconds do not; nothing else should run on the machine. Writes a JSON record and a "
            "chart.",
        )
        self.add_argument(
            "section",
            nargs="?",
            default="steps",
            metavar="SECTION",
            help=f"what to measure: {', '.join(SECTIONS)}, or {_ALL}",
        )

    def read(self, arguments: Sequence[str]) -> tuple[str, BenchArguments]:
        """Return the section and the checked options.

        Raises:
            UserError: a section or option that is not known, or an invalid value.
        """
        given = vars(self.parse_args(list(arguments)))
        section: str = given.pop("section")
        # argparse's `choices` would refuse the value of a mistyped option in the option's place.
        if section not in (*SECTIONS, _ALL):
            raise UserError(f"{section!r} is none of {', '.join(SECTIONS)}, {_ALL}.")
        options = BenchArguments(**given)
        options.check()
        _check_effects(section, self.typed(arguments))
        return section, options


def _check_effects(section: str, typed: dict[str, Any]) -> None:
    of_sections = {"sweep": ("sweeps", _ALL), "methods": ("steps", "memory", _ALL)}
    for name, sections in of_sections.items():
        if section not in sections:
            refuse_idle(typed, [name], f"in section {section}, only in {' and '.join(sections)}")


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    name, options = _BenchParser().read(arguments)
    # A missing package is named before minutes of measuring, not after.
    require("matplotlib.figure", extra="train")
    if options.threads:
        torch.set_num_threads(options.threads)
    # Freed memory is kept for all methods alike; otherwise single rounds differ by a tenth
    # (docs/notebook/performance.md).
    keep_freed_memory()
    console = new_console()
    if name != _ALL:
        SECTIONS[name].check(options.device)
        _run(name, SECTIONS[name], options, console)
        return 0
    for each, section in SECTIONS.items():
        try:
            section.check(options.device)
        except UserError as error:
            console.print(f"Left out: {error}", soft_wrap=True)
            continue
        _run(each, section, options, console)
    return 0


def _run(name: str, section: Section, options: BenchArguments, console: Console) -> None:
    # This raises for rows that a model cannot read, before there is a folder.
    options.workloads(section.models)
    folder = Path(options.output_dir)
    check_takes_files("output_dir", folder)
    record = section.run(name, options, watch_on(console))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{options.device}-{options.dtype}.json"
    record.write(path)
    section.draw(record, path.with_suffix(".png"))
    for table in section.tables(record):
        print_table(console, table)
    console.print(f"{record.device}, {record.threads} threads.")
    console.print(f"Written: {path} and .png", soft_wrap=True)
