"""Draws the pictures of README and docs from the records of the preset `small`.

    python scripts/front_figure.py --records records/small --output docs/assets

Left: how many of eight singular values each matrix kept, mean over seeds. Right: average score
against trained parameters, mean and standard deviation over seeds.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, NullFormatter

from lora2.lab.experiments.figures.kept_figure import mean_kept
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.rates import read_choices
from lora2.lab.experiments.record import RecordFolder
from lora2.reports.kept_values import KeptGrid

# Okabe and Ito's colours, which colour-blind readers tell apart; the shape is the second cue.
STYLES = {
    "LoRA²": ("#0072B2", "o"),
    "LoRA": ("#D55E00", "s"),
    "AdaLoRA": ("#009E73", "^"),
    "SoRA": ("#CC79A7", "D"),
}
FAINT = ("#9aa5b1", "x")
# The paper's names of BERT's matrices, by the ends of their names.
PAPER_NAMES = {
    "query": "Q",
    "key": "K",
    "value": "V",
    "attention.output.dense": "O",
    "intermediate.dense": "F1",
    "output.dense": "F2",
}
_SIZES = (50e3, 100e3, 200e3, 400e3)


def averages(table: Path) -> list[dict[str, Any]]:
    """The rows of table 1 that are averages over tasks, with a label."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["column"] == "average"]
    return [row for row in rows if float(row["parameters_largest"]) > 0]


def draw_scores(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Score against size, each point with its name next to it."""
    for row in rows:
        label = row["label"]
        color, marker = STYLES.get(label, FAINT)
        strong = label in STYLES
        size, score = float(row["parameters_largest"]), float(row["best_mean"])
        axes.errorbar(
            size, score, float(row["best_deviation"]), color=color, marker=marker, capsize=2,
            markersize=7 if strong else 5, alpha=1 if strong else 0.7, linewidth=1,
        )  # fmt: skip
        name = f"{label} {row['setting']}".strip()
        # To the left of the other methods of its size.
        offset, side = ((-8, -4), "right") if name == "LoRA r=8" else ((7, 5), "left")
        if name == "LoRA r=1":
            offset = (7, -12)
        axes.annotate(
            name, (size, score), xytext=offset, ha=side, textcoords="offset points", color=color
        )
    axes.set_xscale("log")
    axes.set_xticks(_SIZES)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(right=max(float(row["parameters_largest"]) for row in rows) * 2)
    axes.set_xlabel("trained parameters")
    axes.set_ylabel("average of three tasks, %")


def kept_on_agreement(records: Path) -> KeptGrid:
    """Kept singular values of LoRA² (k = 8) on agreement, means over the seeds of table 1."""
    preset = PRESETS["small"]
    seeds = tuple(range(preset.seeds))
    request = TableRequest("figure3", preset.model, seeds, read_choices(records))
    grid = preset.grid(request)
    row = next(row for row in grid.rows if row.setting == "k=8")
    row = replace(row, runs={"agreement": row.runs["agreement"]})
    return mean_kept(replace(grid, rows=(row,)), RecordFolder(records).find)[0].means


def draw_kept(axes: Any, kept: KeptGrid) -> None:
    """A table of shades with the numbers in it."""
    means = np.array(kept.counts, dtype=float)
    axes.imshow(means, cmap="Blues", vmin=0, vmax=8, aspect="auto")
    for row, values in enumerate(means):
        for column, value in enumerate(values):
            color = "white" if value > 5 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(kept.matrices)), [PAPER_NAMES[name] for name in kept.matrices])
    axes.set_yticks(range(len(kept.layers)), kept.layers)
    axes.set_ylabel("layer")
    axes.set_title("singular values kept of 8, on agreement", fontsize="medium")


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    rows = averages(options.records / "tables" / "table1.csv")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    draw_scores(axes, rows)
    figure.savefig(options.output / "score-and-size.png", dpi=150)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    draw_kept(left, kept_on_agreement(options.records))
    draw_scores(right, [row for row in rows if row["label"] in STYLES])
    right.set_title("score against size", fontsize="medium")
    figure.savefig(options.output / "front.png", dpi=150)


if __name__ == "__main__":
    main()
