"""`lora2 combine`: the weighted sum of the adapters of several runs, as a run folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lora2.commands.option_parser import OptionParser
from lora2.commands.run_options import add_model, add_new_path
from lora2.errors import NumericalError, UserError
from lora2.exchange.verification import logits, sample_batch
from lora2.support.files import check_is_new, new_folder
from lora2.support.ranges import SIZE, check_number
from lora2.training.checks.addable_runs import check_adds_up, has_head
from lora2.training.finished_run.combined import write_combined_run
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.quiet import quiet_loading
from lora2.training.run_loading import load_saved_run
from lora2.tuners.base.loading import add_adapter, find_adapter
from lora2.tuners.lora2.combined_heads import Heads, has_mean
from lora2.tuners.lora2.model import Lora2Model

_SUM = "sum"


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    weights = _checked_weights(options)
    check_is_new(options.output)
    check_adds_up(options.runs)
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
    if not any(map(has_head, options.runs)):
        if options.heads is not None:
            raise UserError(f"heads: {first} learnt to write texts and has none; leave it out.")
        return "refuse"
    heads: Heads = options.heads or "average"
    if heads == "average" and not has_mean(weights):
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
    add_new_path(parser)
    add_model(parser)
    return parser
