"""The options of `lora2 reproduce` as a typed dataclass, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lora2.errors import UserError
from lora2.lab.experiments.presets.preset import Preset
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.rates import read_choices
from lora2.lab.experiments.tables.paper_numbers import TABLE2
from lora2.support.files import check_may_be_folder
from lora2.support.ranges import Range, check_number

STEP_TIMES = "times"
"""The table of step times of all rows of a table, measured in turns as those of Table 2 are."""


def tables_of(preset: Preset) -> tuple[str, ...]:
    """Return the names of all tables and figures that can be asked for."""
    times = () if preset.timed is None else (TABLE2,)
    step_times = () if preset.step_times is None else (STEP_TIMES,)
    return (*preset.tables, *times, *step_times)


# More of them would not end in a year.
_RUNS = Range(1, 10_001, whole_from=1)


@dataclass
class ReproduceArguments:
    """What is reproduced, and whether it is only shown."""

    preset: str = field(
        default="small",
        metadata={"help": "; ".join(f"{each.name}: {each.note}" for each in PRESETS.values())},
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Another model than the preset's, such as roberta-large for paper: a hub name "
            "or a folder."
        },
    )
    seeds: int | None = field(
        default=None,
        metadata={"help": "Seeds of each cell, from 0; the preset's number unless given."},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "List the runs, and which have records; make none."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the tables and the page; next to the records unless given."},
    )
    rounds: int = field(
        default=15,
        metadata={
            "help": f"Rounds of {TABLE2} and of {STEP_TIMES}; in each, all methods train on the "
            "same batch."
        },
    )

    def check(self) -> None:
        """Check the preset and the number of seeds.

        Raises:
            UserError: one of them is invalid.
        """
        if self.preset not in PRESETS:
            raise UserError(f"preset: {self.preset!r} is none of {', '.join(PRESETS)}.")
        check_may_be_folder("output_dir", self.output_dir)
        for name, value in {"seeds": self.seeds, "rounds": self.rounds}.items():
            if value is not None:
                check_number(name, value, _RUNS)

    @property
    def chosen(self) -> Preset:
        """The preset of that name."""
        return PRESETS[self.preset]

    def request(self, table: str, records: Path) -> TableRequest:
        """Return what is asked for; chosen learning rates are stored with the records."""
        seeds = tuple(range(self.seeds or self.chosen.seeds))
        return TableRequest(table, self.model or self.chosen.model, seeds, read_choices(records))

    def tables(self, records: Path) -> Path:
        """Return where the tables go.

        Those of another model, or of a preset that keeps its records with another's, have a folder
        of their own.
        """
        if self.output_dir is not None:
            return Path(self.output_dir)
        preset, own_model = self.chosen, Path(self.chosen.model).name
        parts = ["tables"]
        if preset.records != preset.name:
            parts.append(preset.name)
        if self.model and (name := Path(self.model).name) != own_model:
            parts.append(name)
        return records / "-".join(parts)
