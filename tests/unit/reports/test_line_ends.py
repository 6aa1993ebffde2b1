"""Names at the ends of lines do not cover each other."""

import pytest

from lora2.reports.line_ends import spread


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.55], [0.475, 0.575]),
        # The pair would meet the third: all three become one block around their mean.
        ([0.5, 0.5, 0.56], [0.42, 0.52, 0.62]),
        ([0.1, 0.5, 0.5, 0.5], [0.1, 0.4, 0.5, 0.6]),
    ],
)
def test_names_keep_a_distance_and_their_order(places, expected):
    assert spread(places, 0.1) == pytest.approx(expected)
