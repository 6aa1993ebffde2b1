"""Figures of a run as PNG files, readable in grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora2.reports.kept_values import KeptGrid
from lora2.reports.panels import new_figure, png
from lora2.support.files import write_atomically
from lora2.trainers.logs import BUDGET, KEPT_PARAMETERS, KEPT_VALUES
from lora2.training.on_disk.records import MetricsRecord

_SIZE = (6.4, 4.0)
# Matrices that a layer without experts has at most.
_FEW = 16


def draw_kept(grid: KeptGrid, path: Path) -> None:
    """Draw kept singular values by layer and matrix, each with its number."""
    height, width = len(grid.layers), len(grid.matrices)
    # A column for each expert, with room for two digits.
    column = 1.1 if width <= _FEW else 0.4
    figure, (axes,) = new_figure(1, (1.8 + column * width, 1.8 + 0.36 * height))
    draw_counts(axes, grid.layers, grid.matrices, grid.counts, max(grid.largest, 1))
    axes.set_title(f"kept singular values: {grid.share_in_words}")
    write_atomically(path, png(figure))


def draw_counts(
    axes: Any,
    layers: Sequence[str],
    matrices: Sequence[str],
    counts: Sequence[Sequence[float | None]],
    largest: float,
) -> None:
    """Shade and print the counts [layers][matrices]; the darker, the nearer to `largest`."""
    values = [[count or 0 for count in row] for row in counts]
    axes.imshow(values, cmap="Greys", vmin=0, vmax=1.25 * largest, aspect="auto")
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            if count is not None:
                colour = "white" if count > 0.65 * largest else "black"
                # Whole numbers have no decimal, and means have one.
                axes.text(x, y, f"{round(count, 1):g}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(matrices)), matrices, rotation=30, ha="right")
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylabel("layer")


def draw_budget(logs: Sequence[MetricsRecord], path: Path) -> None:
    """Draw the budget and what is kept of it, in its unit, by optimizer step."""
    figure, (axes,) = new_figure(1, _SIZE)
    entries = [entry for entry in logs if BUDGET in entry]
    in_parameters = any(KEPT_PARAMETERS in entry for entry in entries)
    kept = KEPT_PARAMETERS if in_parameters else KEPT_VALUES
    # A log that lost a number is drawn without it.
    points = [(entry["step"], entry[kept]) for entry in entries if kept in entry]
    steps = [entry["step"] for entry in entries]
    axes.step(steps, [entry[BUDGET] for entry in entries], "k-", where="post", label="budget")
    axes.plot(*zip(*points, strict=True), "o", label="kept", color="0.5", markersize=3)
    axes.set_ylim(bottom=0)
    _label(axes, "parameters" if in_parameters else "singular values", "budget")
    write_atomically(path, png(figure))


def draw_loss(
    logs: Sequence[MetricsRecord], evaluations: Sequence[MetricsRecord], path: Path
) -> None:
    """Draw the training loss of each log and the validation loss of each evaluation."""
    figure, (axes,) = new_figure(1, _SIZE)
    axes.plot(
        [entry["step"] for entry in logs], [entry["loss"] for entry in logs],
        color="0.6", label="training",
    )  # fmt: skip
    styles = ("k-o", "k--s")
    losses = sorted({key for record in evaluations for key in record if "validation_loss" in key})
    for style, name in zip(styles, losses, strict=False):
        rows = [record for record in evaluations if name in record]
        axes.plot(
            [r["step"] for r in rows], [r[name] for r in rows], style, markersize=4,
            label=name.replace("_loss", "").replace("_", " "),
        )  # fmt: skip
    _label(axes, "loss", "loss")
    write_atomically(path, png(figure))


def _label(axes: Any, unit: str, title: str) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
