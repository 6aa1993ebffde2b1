"""The cases of damages.yaml: every file of a run, every damage, every command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from unit.campaign.case import Case, read_cases

_EITHER = "either"
# One command of so many meets a damage in the slow tier, and each exception is met once; the others
# do in that of the engines.
_SPREAD = 5
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
    slow = set(_slow_cells(content))
    return [_parameter(_case(cell, content), cell in slow) for cell in _cells(content)]


def _parameter(case: Case, is_slow: bool) -> Any:
    tier = pytest.mark.slow if is_slow else pytest.mark.engines
    return pytest.param(case, id=case.name, marks=tier)


def _slow_cells(content: dict[str, Any]) -> Iterator[_Cell]:
    yield from (cell for cell in _cells(content) if _is_of_the_spread(cell, content))
    for exception in content["exceptions"]:
        yield next(cell for cell in _cells(content) if _is_about(exception, cell, content))


def _is_of_the_spread(cell: _Cell, content: dict[str, Any]) -> bool:
    # Along the diagonals: every command meets every file, and every damage meets some command.
    damage = _damages(cell.file, content).index(cell.damage)
    command = _commands_of(cell.file, content).index(cell.command)
    return (damage + command) % _SPREAD == 0


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
        if _is_about(each, cell, content):
            return usual | each
    for verdict in ("refuses", "ignores"):
        if cell.command in file.get(verdict, []):
            return usual | {"verdict": verdict}
    return usual | {"verdict": _EITHER}


def _is_about(exception: dict[str, Any], cell: _Cell, content: dict[str, Any]) -> bool:
    named = exception["commands"]
    commands = content["commands"] if named == "all" else named
    return (
        exception["file"] == cell.file
        and cell.damage in exception["damages"]
        and cell.command in commands
    )
