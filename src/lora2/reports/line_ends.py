"""Names of lines at their right ends, in place of a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_POINTS = 8
# Height of a name in relation to the letters.
_LINE_HEIGHT = 1.25
_POINTS_PER_INCH = 72


def name_lines(axes: Any, lines: Mapping[str, Any], height: float) -> None:
    """Write each line's name to the right of its end, in its colour, and none over another.

    Args:
        axes: the panel; its limits stay as they are.
        lines: matplotlib's lines by name.
        height: of the panel, in inches.
    """
    low, high = axes.get_ylim()
    ends = {name: (line.get_ydata()[-1] - low) / (high - low) for name, line in lines.items()}
    least = _POINTS * _LINE_HEIGHT / (height * _POINTS_PER_INCH)
    names = sorted(ends, key=ends.__getitem__)
    for name, place in zip(names, spread([ends[name] for name in names], least), strict=True):
        line = lines[name]
        axes.annotate(
            name, (line.get_xdata()[-1], line.get_ydata()[-1]), (1.04, place),
            textcoords="axes fraction", va="center", fontsize=_POINTS, color=line.get_color(),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.5,
                        "shrinkA": 1, "shrinkB": 2, "alpha": 0.6},
        )  # fmt: skip


def spread(places: Sequence[float], least: float) -> list[float]:
    """Return ascending places with at least this distance, moved as little as that allows.

    Places that are too close become one block around their mean, and blocks that meet are joined.
    """
    blocks: list[list[float]] = []
    for place in places:
        blocks.append([place])
        while len(blocks) > 1 and _start(blocks[-1], least) < _end(blocks[-2], least) + least:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [_start(block, least) + i * least for block in blocks for i in range(len(block))]


def _start(block: Sequence[float], least: float) -> float:
    return sum(block) / len(block) - least * (len(block) - 1) / 2


def _end(block: Sequence[float], least: float) -> float:
    return _start(block, least) + least * (len(block) - 1)
