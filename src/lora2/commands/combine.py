"""`lora2 combine`: the weighted sum of several adapters of one base model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lora2.commands.parser import OptionParser
from lora2.errors import UserError
from lora2.support.files import check_is_new, new_folder
from lora2.training.models import quiet_loading
from lora2.training.run_folder import RunFolder
from lora2.training.saved_run import load_saved_run
from lora2.tuners.base.loading import check_loaded, find_adapter
from lora2.tuners.lora2.model import Lora2Model

_SUM = "sum"


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    weights = options.weights or [1.0] * len(options.runs)
    if len(weights) != len(options.runs):
        raise UserError(
            f"weights: {len(weights)} numbers for {len(options.runs)} runs; give one for each."
        )
    check_is_new(options.output)
    if options.rank is not None and options.rank < 1:
        raise UserError(f"rank={options.rank} must be at least 1.")
    if not all(map(math.isfinite, weights)):
        raise UserError(f"weights: {weights} holds a number that is none; write finite ones.")
    for path in options.runs[1:]:
        _check_same_base(options.runs[0], path)
    first = load_saved_run(options.runs[0], options.model)
    model, names = first.model, [str(path) for path in options.runs]
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, Lora2Model):
        raise UserError(f"runs: {options.runs[0]} is not of method lora2, which this adds up.")
    adapters = ["default"]
    for index, path in enumerate(options.runs[1:], start=1):
        name, folder = f"adapter{index}", find_adapter(path, "runs")
        with quiet_loading():
            model.load_adapter(str(folder), name)
        check_loaded(model, folder, name)
        adapters.append(name)
    form = "cat" if options.rank is None else "svd"
    missing = tuner.add_weighted_adapter(adapters, weights, _SUM, form, options.rank)
    model.set_adapter(_SUM)
    with new_folder(options.output) as temporary, quiet_loading():
        model.save_pretrained(str(temporary), selected_adapters=[_SUM])
        for file in (temporary / _SUM).iterdir():
            file.rename(temporary / file.name)
        (temporary / _SUM).rmdir()
        first.tokenizer.save_pretrained(temporary)
    total = " + ".join(f"{weight:g} · {name}" for weight, name in zip(weights, names, strict=True))
    print(f"{total} written to {options.output}")
    print(f"k = {tuner.peft_config[_SUM].k}; left out: {missing:.1e} of the sum's norm")
    return 0


def _check_same_base(first: Path, other: Path) -> None:
    settings = [RunFolder(path).read_options() for path in (first, other)]
    models = [each["model"] for each in settings]
    if models[0] != models[1] or settings[1]["method"] != "lora2":
        raise UserError(
            f"runs: {other} is of {settings[1]['method']} on {models[1]} and {first} of lora2 on "
            f"{models[0]}; only adapters of lora2 on one base model add up."
        )


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 combine",
        description="Write the weighted sum of the adapters of several runs, exactly: one adapter "
        "of the sum of their k; or its best approximation of a chosen rank.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--weights", type=float, nargs="+", help="one for each run (default: 1)")
    parser.add_argument("--rank", type=int, help="cut the sum to this rank by its singular values")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--model", help="where the base model lies now, if it has moved")
    return parser
