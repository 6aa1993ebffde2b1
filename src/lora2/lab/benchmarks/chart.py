"""Charts of a benchmark as PNG files, readable in grey."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora2.lab.benchmarks.ratios import ratio
from lora2.lab.benchmarks.record import MEBIBYTE, BenchmarkRecord
from lora2.lab.benchmarks.report import label
from lora2.reports.panels import new_figure, png
from lora2.support.files import write_atomically

_PANEL = (5.2, 3.4)

Bar = tuple[float, float, float]
"""Height, and the quartiles below and above it."""


def draw_steps(record: BenchmarkRecord, path: Path) -> None:
    """Draw the step time of each method over the floor's; seconds, where it was not measured."""
    panels = {}
    for result in record.results:
        summary = result["summary"]
        of = (lambda row: row["ratios"]["floor"]) if "floor" in summary else _seconds
        panels[result["label"]] = {name: _bar(of(row)) for name, row in summary.items()}
    _draw_bars(panels, "step time / floor", path)


def draw_memory(record: BenchmarkRecord, path: Path) -> None:
    """Draw what training steps add to the memory."""
    panels = {
        result["label"]: {
            name: _exact(counted["added"] / MEBIBYTE) for name, counted in result["bytes"].items()
        }
        for result in record.results
    }
    _draw_bars(panels, "added by training steps, MiB", path)


def draw_storage(record: BenchmarkRecord, path: Path) -> None:
    """Draw the seconds of saving, loading and merging."""
    panels = {
        f"{result['label']}: {action}": {
            name: _bar(summary[action]) for name, summary in result["summary"].items()
        }
        for result in record.results
        for action in ("save", "load", "merge")
    }
    _draw_bars(panels, "seconds", path)


def draw_parts(record: BenchmarkRecord, path: Path) -> None:
    """Draw the shares of a LoRA² step."""
    panels = {
        result["label"]: {
            name: _bar(share, 100) for name, share in result["summary"]["shares"].items()
        }
        for result in record.results
    }
    _draw_bars(panels, "% of a step", path)


def draw_compiled(record: BenchmarkRecord, path: Path) -> None:
    """Draw the seconds of compiled steps."""
    panels = {
        result["label"]: {name: _bar(row) for name, row in result["summary"]["seconds"].items()}
        for result in record.results
    }
    _draw_bars(panels, "seconds a step, compiled", path)


def draw_sweeps(record: BenchmarkRecord, path: Path) -> None:
    """Draw step time over the floor's as one size grows, a panel for each."""
    panels = {
        f"{result['label']}: {name}": sweep
        for result in record.results
        for name, sweep in result["sweeps"].items()
    }
    figure, all_axes = new_figure(len(panels), _PANEL)
    for axes, (title, sweep) in zip(all_axes, panels.items(), strict=True):
        values = list(sweep["points"])
        for method, style in (("lora", "0.6"), ("lora2", "black")):
            heights = [to_floor(sweep, method, value) for value in values]
            axes.plot(values, heights, "o-", color=style, label=label(method))
        _finish(axes, title, "step time / floor")
        axes.legend(frameon=False)
    write_atomically(path, png(figure))


def to_floor(sweep: Mapping[str, Any], method: str, value: str) -> float:
    """Return a method's step time over the floor's at one value: the median of the rounds."""
    return ratio(sweep["seconds"], f"{method} {value}", f"floor {value}").median


def _draw_bars(panels: Mapping[str, Mapping[str, Bar]], unit: str, path: Path) -> None:
    figure, all_axes = new_figure(len(panels), _PANEL)
    for axes, (title, bars) in zip(all_axes, panels.items(), strict=True):
        names = [label(name) for name in bars]
        heights = [height for height, _, _ in bars.values()]
        errors = [
            [height - lower for height, lower, _ in bars.values()],
            [upper - height for height, _, upper in bars.values()],
        ]
        colours = ["0.35" if name.startswith("LoRA²") else "0.75" for name in names]
        drawn = axes.barh(names, heights, xerr=errors, color=colours, capsize=2)
        axes.bar_label(drawn, fmt="%.3g", padding=3)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        _finish(axes, title, "")
    write_atomically(path, png(figure))


def _seconds(row: Mapping[str, Any]) -> Mapping[str, float]:
    return row["seconds"]


def _bar(spread: Mapping[str, float], factor: float = 1) -> Bar:
    return factor * spread["median"], factor * spread["lower"], factor * spread["upper"]


def _exact(value: float) -> Bar:
    return value, value, value


def _finish(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
