"""The values that a run of regression finds."""

import pytest

from lora2.training.objectives.row_labelling import _in_single_precision


@pytest.mark.parametrize("value", [1.234567e-7, -3.5e-12, 1234567.0, 0.0])
def test_a_value_keeps_its_significant_digits(value):
    assert _in_single_precision(value) == value
