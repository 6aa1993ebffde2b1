"""Checks that the adapters of runs can be added up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.data.tables.table import listed
from lora2.errors import UserError
from lora2.training.objectives.registry import OBJECTIVES
from lora2.training.on_disk.run_folder import RunFolder

# Options of runs that trained weights whole.
_WHOLE = ("modules_to_save", "trainable_token_indices", "new_tokens")


def check_adds_up(runs: Sequence[Path]) -> None:
    """Check that runs have adapters of LoRA² on one base model, and one kind of head.

    Raises:
        UserError: they do not.
    """
    for path in runs:
        _check_is_of_lora2(path)
    for path in runs[1:]:
        _check_goes_with(runs[0], path)


def has_head(path: Path) -> bool:
    """Whether a run trained modules whole, such as the head of a classifier."""
    folder = RunFolder(path)
    options = folder.read_options()
    return "kind" in folder.read_task() or any(options.get(name) for name in _WHOLE)


def _check_is_of_lora2(path: Path) -> None:
    method = RunFolder(path).read_options()["method"]
    if method != "lora2":
        raise UserError(
            f"runs: {path} is of method {method}, and only adapters of lora2 add up; give runs of "
            "lora2."
        )


def _check_goes_with(first: Path, other: Path) -> None:
    folders = [RunFolder(path) for path in (first, other)]
    models = [folder.read_options()["model"] for folder in folders]
    if not _is_same_model(*models):
        raise UserError(
            f"runs: the base model of {first} is {models[0]} and that of {other} is {models[1]}; "
            "only adapters on one base model add up."
        )
    tokens = [folder.read_options().get("new_tokens") or [] for folder in folders]
    if tokens[0] != tokens[1]:
        raise UserError(
            f"runs: the new_tokens of {first} are {_listed(tokens[0])} and those of {other} are "
            f"{_listed(tokens[1])}; only runs with the same tokens add up."
        )
    tasks = [folder.read_task() for folder in folders]
    learnt = [_learnt(task) for task in tasks]
    if learnt[0] != learnt[1]:
        raise UserError(
            f"runs: {first} learnt {learnt[0]} and {other} learnt {learnt[1]}; only runs of one "
            "kind add up."
        )
    labels = [task.get("label_names") or [] for task in tasks]
    if labels[0] != labels[1]:
        order = " in the same order" if sorted(labels[0]) == sorted(labels[1]) else ""
        raise UserError(
            f"runs: the labels of {first} are {_listed(labels[0])} and those of {other} are "
            f"{_listed(labels[1])}; only runs with the same labels{order} have heads that can be "
            "combined."
        )


def _is_same_model(one: str, other: str) -> bool:
    """Whether two names are of one model; a folder can be named in several ways."""
    return one == other or (
        Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other)
    )


def _learnt(task: dict[str, Any]) -> str:
    return next(each.learnt(task) for each in OBJECTIVES.values() if each.trains_on(task))


def _listed(labels: Sequence[str]) -> str:
    shown = listed(labels[:5]) or "none"
    return f"{shown} and {len(labels) - 5} more" if len(labels) > 5 else shown
