"""Chosen learning rates: the file in which `lora2 tune` leaves them and `lora2 reproduce` looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from lora2.errors import UserError
from lora2.lab.experiments.tuning import Choice
from lora2.support.checked_files import check_fields, read_json
from lora2.support.field_types import fits
from lora2.support.files import write_json_atomically
from lora2.support.ranges import POSITIVE, check_number

FILE_NAME = "learning_rates.json"
_ADVICE = "it holds no chosen learning rates that can be read; remove it"
_Entry = dict[str, Any]
_FIELDS = {"learning_rate": float, "trials": list[list[Any]]}


def read_choices(folder: Path) -> dict[str, Choice]:
    """Return the choices that are stored with the records, by experiment; none before tuning.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    content = read_json(path, _ADVICE)
    check_fields(content, dict.fromkeys(content, _Entry), path, _ADVICE)
    for name, entry in content.items():
        check_fields(entry, _FIELDS, f"{path}: {name}", _ADVICE)
        check_number(f"{path}: learning_rate of {name}", entry["learning_rate"], POSITIVE)
        if not all(_is_trial(trial) for trial in entry["trials"]):
            raise UserError(
                f"{path}: trials of {name} must be pairs of a learning rate and a score; {_ADVICE}."
            )
    return {
        name: Choice(name, entry["learning_rate"], tuple(map(tuple, entry["trials"])))
        for name, entry in content.items()
    }


def _is_trial(trial: list[Any]) -> bool:
    return len(trial) == 2 and fits(trial[0], float) and fits(trial[1], float | None)


def add_choice(folder: Path, choice: Choice) -> bool:
    """Add one choice, or replace that of the same experiment; several processes may at a time.

    One of more trials is not replaced, because tables say that all methods had as many.

    Returns:
        Whether the choice is in the file now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{FILE_NAME}.lock"):
        choices = read_choices(folder)
        stored = choices.get(choice.experiment)
        if stored is not None and len(stored.trials) > len(choice.trials):
            return False
        write_choices(folder, choices | {choice.experiment: choice})
        return True


def write_choices(folder: Path, choices: Mapping[str, Choice]) -> None:
    """Write all choices, sorted by experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {}
    for name in sorted(choices):
        fields = asdict(choices[name])
        del fields["experiment"]
        content[name] = fields
    write_json_atomically(folder / FILE_NAME, content)
