"""Tables that the command line prints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lora2.data.tasks.task import rows_in_words
from lora2.reports.numbers_in_words import epoch_in_words, size_in_words, steps_in_words
from lora2.training.budgets import final_size
from lora2.training.methods.registry import METHODS
from lora2.training.on_disk.summary import RunSummary
from lora2.training.options.peft_registry import ANY
from lora2.training.prepare import PreparedRun


def plan_table(prepared: PreparedRun) -> Table:
    """Return what is going to be trained."""
    settings, task = prepared.settings, prepared.task
    arguments = prepared.trainer.args
    table = _facts("Training")
    sizes = f"{len(task.train):,} training rows"
    for name, rows in task.validation.items():
        sizes += f", {len(rows):,} {name}"
    table.add_row("task", f"{task.name} ({sizes})")
    if prepared.left_out:
        counts = [f"{count:,} {rows_in_words(name)}" for name, count in prepared.left_out.items()]
        length = settings.data.max_length
        table.add_row(
            "left out", f"{' and '.join(counts)}: max_length={length} cuts off all that is learnt"
        )
    table.add_row("model", f"{settings.model.model} ({prepared.trainer.model.config.model_type})")
    table.add_row("method", _label(settings.run.method, settings.adapter["peft_config"]))
    adapter = f"{prepared.parameters['adapter']:,} trained parameters at the start"
    final = final_size(prepared.trainer.model, prepared.head)
    if final is not None:
        adapter += f", at the end {size_in_words(final)}"
    table.add_row("adapter", adapter)
    if prepared.parameters["head"]:
        table.add_row("head", f"{prepared.parameters['head']:,} trained parameters")
    examples: Any = prepared.trainer.train_dataset
    steps = steps_in_words(prepared.steps, len(examples), arguments)
    table.add_row("optimizer", f"{steps}, learning rate {arguments.learning_rate:g}")
    table.add_row("budget", prepared.budget)
    table.add_row("run folder", str(prepared.folder.path))
    return table


def summary_table(summary: RunSummary) -> Table:
    """Return what was reached, and what the untrained model and the head alone reach if known."""
    metric = summary.main_metric
    table = Table(
        title=f"{summary.task}: {metric}",
        title_justify="left",
        caption=_sizes(summary),
        caption_justify="left",
    )
    table.add_column("")
    for column in ("best", "at epoch", "last", "parameters"):
        table.add_column(column, justify="right")
    before, baseline = summary.before, summary.baseline
    if before is not None and metric in before:
        table.add_row("before training", "–", "–", _number(before[metric]), "0")
    if baseline is not None:
        cells = _best_and_last(baseline["best"], baseline["last"], metric)
        table.add_row("head alone", *cells, f"{baseline['parameters']:,}")
    table.add_row(
        _label(summary.method, summary.peft_config),
        *_best_and_last(summary.best, summary.last, metric),
        f"{sum(summary.final_parameters.values()):,}",
    )
    return table


def _label(method: str, peft_config: Mapping[str, Any] | None) -> str:
    """Return a method's name; where its config says which of PEFT's it is, that too."""
    label = METHODS[method].label
    return f"{label} {peft_config['peft_type']}" if method == ANY and peft_config else label


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """Return metrics by name."""
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    return table


def kept_table(columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> Table:
    """Return kept singular values: one row a layer, one column a matrix."""
    # Without lines between the columns, nine of them fit into 60 characters.
    table = Table(
        title="kept singular values", title_justify="left", box=SIMPLE_HEAD,
        padding=0, show_edge=False,
    )  # fmt: skip
    table.add_column("layer", justify="right")
    for column in (*columns, "sum"):
        # Each part of a long name has a line, so that a row fits into a terminal.
        table.add_column(column.replace("_", "_\n").replace(".", "\n"), justify="right")
    for layer, counts in rows.items():
        cells = ["" if count is None else str(count) for count in counts]
        table.add_row(layer, *cells, str(sum(count or 0 for count in counts)))
    return table


def _best_and_last(
    best: Mapping[str, Any] | None, last: Mapping[str, Any] | None, metric: str
) -> tuple[str, str, str]:
    if best is None or last is None:
        return "–", "–", "–"
    return (
        _number(best[metric]),
        _number(best["epoch"], epoch_in_words),
        _number(last[metric]),
    )


def _number(value: float | None, in_words: Callable[[float], str] = "{:.4f}".format) -> str:
    # Files hold null in place of NaN.
    return "–" if value is None or math.isnan(value) else in_words(value)


def _sizes(summary: RunSummary) -> str:
    """Say what the column of parameters counts: less than was trained, where some were pruned."""
    trained, counts = summary.trainable_parameters, summary.final_parameters
    parts = " + ".join(f"{name} {count:,}" for name, count in counts.items())
    lines = [f"parameters at the end: {parts}"]
    if trained.get("adapter", 0) > counts.get("adapter", 0):
        lines.append(f"parameters at the start: adapter {trained['adapter']:,}")
    if summary.saved_bytes is not None:
        lines.append(f"saved in {summary.saved_bytes:,} bytes")
    return "\n".join(lines)


def _facts(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("", style="bold")
    table.add_column("")
    return table
