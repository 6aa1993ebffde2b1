"""The cases of damages.yaml: every file of a run, every damage, every command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from unit.campaign.case import Case, read_cases

_EITHER = "either"
_CODES = {"refuses": (2,), "ignores": (0,), _EITHER: (0, 2)}


@dataclass(frozen=True)
class _Cell:
    """A command that meets a damaged file."""

    file: str
    damage: str
    command: str


def grid() -> list[Any]:
    """Return all cases as parameters of a test."""
    content = read_cases("damages")
    cases = [_case(cell, content) for cell in _cells(content)]
    return [pytest.param(case, id=case.name) for case in cases]


def _cells(content: dict[str, Any]) -> Iterator[_Cell]:
    for file in content["files"]:
        for damage in _damages(file, content):
            for command in _commands_of(file, content):
                yield _Cell(file, damage, command)


def _damages(file: str, content: dict[str, Any]) -> list[str]:
    keys = content["files"][file].get("keys", [])
    return [*content["damages"], *(f"without {key}" for key in keys)]


def _commands_of(file: str, content: dict[str, Any]) -> list[str]:
    # A run that stopped early has no adapter and no summary.
    late = file == "summary.json" or file.startswith("adapter/")
    return [name for name in content["commands"] if not (late and name == "resume")]


def _case(cell: _Cell, content: dict[str, Any]) -> Case:
    command, verdict = content["commands"][cell.command], _verdict(cell, content)
    codes = _CODES[verdict["verdict"]]
    return Case(
        name=f"{cell.file} {cell.damage}: {cell.command}",
        command=command["words"],
        before=f"cp -r ${command['of']} run",
        damage=((f"run/{cell.file}", cell.damage),),
        code=codes,
        says=(verdict["says"],) if 2 in codes else (),
        writes=(command["writes"],) if "writes" in command else (),
    )


def _verdict(cell: _Cell, content: dict[str, Any]) -> dict[str, str]:
    file = content["files"][cell.file]
    says = cell.damage.removeprefix("without ") if cell.damage.startswith("without ") else None
    usual = {"says": says or file["says"]}
    for each in content["exceptions"]:
        commands = content["commands"] if each["commands"] == "all" else each["commands"]
        if (
            each["file"] == cell.file
            and cell.damage in each["damages"]
            and cell.command in commands
        ):
            return usual | each
    for verdict in ("refuses", "ignores"):
        if cell.command in file.get(verdict, []):
            return usual | {"verdict": verdict}
    return usual | {"verdict": _EITHER}
