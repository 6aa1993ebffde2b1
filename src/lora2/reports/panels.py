"""Panels of a figure, and the figure as PNG; all figures are made with these."""

from __future__ import annotations

import io
from typing import Any

from lora2.support.extras import require

_DPI = 150
_IN_A_ROW = 3


def new_figure(number: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """Return a figure and its panels, at most three side by side and all rows as full.

    Args:
        number: of panels.
        size: width and height of one, in inches.
    """
    # Without pyplot there is no global state, and no display is looked for.
    module = require("matplotlib.figure", extra="train")
    rows = -(-number // _IN_A_ROW)
    columns = -(-number // rows)
    figure = module.Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    found = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for unused in found[number:]:
        unused.remove()
    return figure, found[:number]


def png(figure: Any) -> bytes:
    """Return the picture; the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
