"""`lora2 inspect`: what a run kept, as a table and as figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from rich.console import Console

from lora2.commands.option_parser import OptionParser
from lora2.errors import UserError
from lora2.reports.console import new_console, print_table
from lora2.reports.figures import draw_budget, draw_kept, draw_loss
from lora2.reports.kept_values import initial_ranks, kept_grid, read_kept, summed_over_experts
from lora2.reports.tables import kept_table, summary_table
from lora2.trainers.logs import BUDGET
from lora2.training.on_disk.checkpoints import newest_complete
from lora2.training.on_disk.records import MetricsRecord, read_lines
from lora2.training.on_disk.run_folder import RunFolder


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    folder = RunFolder(_parser().parse_args(list(arguments)).run)
    options = folder.read_options()
    console = new_console()
    summary = folder.read_summary() if folder.is_finished else None
    if summary is None:
        state = "has diverged" if folder.has_diverged else "is not finished"
        console.print(f"The run {state}; this is its newest checkpoint.")
    else:
        print_table(console, summary_table(summary))
    # All is read before anything is drawn: a damaged file leaves the folder as it was.
    kept = _read_kept(folder)
    # The ranks of a sum of runs are not in its options.
    is_sum = summary is not None and summary.combined is not None
    initial = None if is_sum else initial_ranks(kept, options)
    logs = read_lines(folder.log_file, ("step", "loss"))
    evaluations = read_lines(folder.metrics_file)
    try:
        folder.figures.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise UserError(
            f"{folder.figures} is a file, where the figures are to be; move it to another place."
        ) from error
    drawn = [
        *_kept(folder, kept, initial, console),
        *_curves(folder, logs, evaluations),
    ]
    for path in drawn:
        console.print(f"Drawn: {path}", soft_wrap=True)
    return 0


def _read_kept(folder: RunFolder) -> dict[str, int]:
    newest, _ = newest_complete(folder.checkpoints)
    source = folder.adapter if folder.is_finished else newest
    # A model that was trained whole has weights of another name.
    weights = None if source is None else source / WEIGHTS
    return read_kept(weights) if weights is not None and weights.is_file() else {}


def _kept(
    folder: RunFolder, kept: dict[str, int], initial: dict[str, int] | None, console: Console
) -> list[Path]:
    if not kept:
        yet = "" if folder.is_finished else " yet"
        console.print(f"There is no LoRA² adapter{yet}, so no kept singular values.")
        return []
    grid = kept_grid(kept, initial)
    print_table(console, kept_table(*summed_over_experts(grid)))
    path = folder.figures / "kept_singular_values.png"
    draw_kept(grid, path)
    return [path]


def _curves(
    folder: RunFolder, logs: list[MetricsRecord], evaluations: list[MetricsRecord]
) -> list[Path]:
    drawn = []
    if any(BUDGET in entry for entry in logs):
        drawn.append(folder.figures / "budget.png")
        draw_budget(logs, drawn[-1])
    if logs or evaluations:
        drawn.append(folder.figures / "loss.png")
        draw_loss(logs, evaluations, drawn[-1])
    return drawn


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 inspect",
        description="Print what a run kept and draw it into RUN/figures, during training too.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    return parser
