"""`lora2 combine`: the weighted sum of the adapters of several runs, as a run folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lora2.commands.option_parser import OptionParser
from lora2.commands.run_options import add_model
from lora2.data.tables.files import listed
from lora2.errors import NumericalError, UserError
from lora2.exchange.verification import logits, sample_batch
from lora2.support.files import check_is_new, new_folder
from lora2.support.ranges import SIZE, check_number
from lora2.training.combined_run import write_combined_run
from lora2.training.loaded_run import LoadedRun
from lora2.training.objectives.registry import OBJECTIVES
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.quiet import quiet_loading
from lora2.training.saved_run import load_saved_run
from lora2.tuners.base.loading import add_adapter, find_adapter
from lora2.tuners.lora2.combination import Heads
from lora2.tuners.lora2.model import Lora2Model

_SUM = "sum"
# Options of runs that trained weights whole.
_WHOLE = ("modules_to_save", "trainable_token_indices", "new_tokens")
# Σ weights / Σ |weights|: below this share, the heads would consist of rounding errors.
_SMALLEST_SUM = 1e-6


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    weights = _checked_weights(options)
    check_is_new(options.output)
    for path in options.runs:
        _check_is_of_lora2(path)
    for path in options.runs[1:]:
        _check_goes_with(options.runs[0], path)
    options.heads = _checked_heads(options, weights)
    first = load_saved_run(options.runs[0], options.model)
    tuner, missing = _add_up(first, options, weights)
    _check_computes(first, weights)
    with new_folder(options.output) as temporary, quiet_loading():
        write_combined_run(temporary, first, _SUM, list(map(str, options.runs)), weights)
    total = " + ".join(
        f"{weight:g} · {path}" for weight, path in zip(weights, options.runs, strict=True)
    )
    print(f"{total} written to {options.output}")
    print(f"k = {tuner.peft_config[_SUM].k}; left out: {missing:.1e} of the sum's norm")
    return 0


def _checked_weights(options: Any) -> list[float]:
    weights: list[float] = options.weights or [1.0] * len(options.runs)
    if len(weights) != len(options.runs):
        raise UserError(
            f"weights: {len(weights)} numbers for {len(options.runs)} runs; give one for each."
        )
    if options.rank is not None:
        check_number("rank", options.rank, SIZE)
    if not all(map(math.isfinite, weights)):
        raise UserError(f"weights: {weights} must all be finite numbers.")
    if max(map(abs, weights)) > torch.finfo(torch.float32).max:
        raise UserError(f"weights: {weights} are too large; write smaller ones.")
    return weights


def _checked_heads(options: Any, weights: list[float]) -> Heads:
    """Return what becomes of the heads; without any, all weights will do.

    Raises:
        UserError: heads that have no mean, or an option about heads that are not there.
    """
    first = options.runs[0]
    if not any(map(_has_head, options.runs)):
        if options.heads is not None:
            raise UserError(f"heads: {first} learnt to write texts and has none; leave it out.")
        return "refuse"
    heads: Heads = options.heads or "average"
    if heads == "average" and abs(sum(weights)) <= _SMALLEST_SUM * sum(map(abs, weights)):
        raise UserError(
            f"weights: the sum of {weights} is 0, so heads have no mean; add --heads first to keep "
            f"that of {first}, or give other weights."
        )
    return heads


def _add_up(first: LoadedRun, options: Any, weights: list[float]) -> tuple[Lora2Model, float]:
    """Add the sum to the first run's model as its active adapter; return what was left out."""
    model = first.model
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, Lora2Model):
        raise UserError(f"runs: {options.runs[0]} has no adapter of lora2; give another run.")
    adapters = ["default"]
    for index, path in enumerate(options.runs[1:], start=1):
        name, folder = f"adapter{index}", find_adapter(path, "runs")
        with quiet_loading():
            add_adapter(model, folder, name)
        adapters.append(name)
    form = "cat" if options.rank is None else "svd"
    missing = tuner.add_weighted_adapter(adapters, weights, _SUM, form, options.rank, options.heads)
    assert missing is not None, "no adapter of the run has this name"
    model.set_adapter(_SUM)
    return tuner, missing


def _check_computes(first: LoadedRun, weights: list[float]) -> None:
    """Check that the sum, which is the active adapter now, computes finite numbers.

    Raises:
        UserError: it does not, with these weights.
    """
    model: Any = first.model
    model.eval()
    try:
        batch = sample_batch(model)
    except UserError:
        # Inputs of this model cannot be made up.
        return
    try:
        logits(model, batch)
    except NumericalError as error:
        raise UserError(
            f"weights: with {weights} the sum computes NaN or infinity; write smaller ones."
        ) from error


def _has_head(path: Path) -> bool:
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
    """Check that two runs have adapters that add up: one base model, one kind of head.

    Raises:
        UserError: they do not.
    """
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


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 combine",
        description="Write the weighted sum of the adapters of several runs, exactly: one adapter "
        "of the sum of their k; or its best approximation of a chosen rank. The result is the "
        "folder of a run, for evaluate, predict, generate, inspect and export.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--weights", type=float, nargs="+", help="one for each run (default: 1)")
    parser.add_argument("--rank", type=int, help="cut the sum to this rank by its singular values")
    parser.add_argument(
        "--heads",
        choices=("average", "first"),
        help="of runs that learnt labels: the mean of their heads, weighted by weight / sum of the "
        "weights, or the first run's head (default: average)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    add_model(parser)
    return parser
