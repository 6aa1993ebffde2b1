"""Panels of a figure: how many are side by side."""

import pytest

from lora2.reports.panels import new_figure


@pytest.mark.parametrize(
    ("number", "across", "down"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (7, 3, 3)]
)
def test_panels_fill_rows_of_at_most_three_evenly(number: int, across: int, down: int) -> None:
    figure, panels = new_figure(number, (2.0, 1.0))
    assert len(panels) == number
    assert tuple(figure.get_size_inches()) == (2.0 * across, 1.0 * down)
