"""Names of lines at their right ends, in place of a legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_POINTS = 8
# Height of a name in relation to the letters.
_LINE_HEIGHT = 1.25
_POINTS_PER_INCH = 72


def name_lines(axes: Any, lines: Mapping[str, Any], height: float) -> None:
    """Write each line's name to the right of its end, in its colour, and none over another.

    The end is the last point that is drawn: a NaN is not, and a line of NaN alone gets no name.

    Args:
        axes: the panel; its limits stay as they are.
        lines: matplotlib's lines by name.
        height: of the panel, in inches.
    """
    low, high = axes.get_ylim()
    points = {name: point for name, line in lines.items() if (point := _last_point(line))}
    heights = {name: (y - low) / (high - low) for name, (_, y) in points.items()}
    least = _POINTS * _LINE_HEIGHT / (height * _POINTS_PER_INCH)
    names = sorted(heights, key=heights.__getitem__)
    for name, place in zip(names, spread([heights[name] for name in names], least), strict=True):
        color = lines[name].get_color()
        axes.annotate(
            name, points[name], (1.04, place),
            textcoords="axes fraction", va="center", fontsize=_POINTS, color=color,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5,
                        "shrinkA": 1, "shrinkB": 2, "alpha": 0.6},
        )  # fmt: skip


def _last_point(line: Any) -> tuple[float, float] | None:
    points = zip(line.get_xdata(), line.get_ydata(), strict=True)
    return next(((x, y) for x, y in reversed([*points]) if math.isfinite(y)), None)


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
