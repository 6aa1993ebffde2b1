"""What the tables of a benchmark say of what was measured."""

import pytest

from benchmark_case import options
from lora2.lab.benchmarks.record import make_record
from lora2.lab.benchmarks.report import steps_tables
from lora2.lab.benchmarks.steps import summarize


@pytest.mark.parametrize(("seconds", "undecided"), [((3.0, 3.1, 3.2), 0), ((0.8, 1.1, 1.9), 1)])
def test_a_ratio_that_the_rounds_do_not_decide_is_marked(seconds, undecided):
    measured = {"lora": [1.0, 1.0, 1.0], "lora2": list(seconds)}
    result = {
        "label": "tiny",
        "batch_size": 2,
        "length": 4,
        "seconds": measured,
        "summary": summarize(measured),
    }
    record = make_record("steps", options(), [result], {})
    (table,) = steps_tables(record)
    marked = [cell for column in table.columns for cell in column.cells if "~" in str(cell)]
    assert len(marked) == undecided
    assert ("the rounds scatter more than the two differ" in str(table.caption)) == bool(undecided)
