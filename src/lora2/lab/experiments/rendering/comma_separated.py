"""A table as CSV for programs: a line for each cell, numbers unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from lora2.lab.experiments.tables.averages import Estimate
from lora2.lab.experiments.tables.grid import Row
from lora2.lab.experiments.tables.table import Average, Cell, Parameters, ResultTable

AVERAGE = "average"
"""In the field `column` of the lines that hold the average of a row."""

_FIELDS = (
    "label", "method", "setting", "column",
    "best_mean", "best_deviation", "best_count", "last_mean", "last_deviation", "last_count",
    "failed", "missing", "paper", "paper_average_as_printed", "difference",
    "parameters_smallest", "parameters_largest",
    "final_parameters_smallest", "final_parameters_largest", "paper_parameters",
)  # fmt: skip

# None is written as an empty field.
Fields = Mapping[str, float | str | None]


def render(table: ResultTable) -> str:
    """Return a line for each cell, the average of a row behind them, and for each measure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    names = (*(column.name for column in table.columns), AVERAGE)
    for row in table.rows:
        for name, cell in zip(names, (*row.cells, row.average), strict=True):
            place = {**_place(row.row), "column": name}
            writer.writerow({**place, **_cell(cell), **_parameters(row.parameters)})
        for measure, found in zip(table.measures, row.measures, strict=True):
            place = {**_place(row.row), "column": measure.name}
            writer.writerow({**place, **_estimate("last", found), **_parameters(row.parameters)})
    return text.getvalue()


def _place(row: Row) -> Fields:
    return {"label": row.label, "method": row.method, "setting": row.setting}


def _cell(cell: Cell) -> Fields:
    return {
        **_estimate("best", cell.best),
        **_estimate("last", cell.last),
        "paper": cell.paper,
        "difference": cell.difference,
        # An average counts no runs of its own.
        **(
            {"paper_average_as_printed": cell.as_printed}
            if isinstance(cell, Average)
            else {"failed": cell.failed, "missing": cell.missing}
        ),
    }


def _estimate(which: str, estimate: Estimate | None) -> Fields:
    if estimate is None:
        return {f"{which}_count": 0}
    return {
        f"{which}_mean": estimate.mean,
        f"{which}_deviation": estimate.deviation,
        f"{which}_count": estimate.count,
    }


def _parameters(parameters: Parameters) -> Fields:
    return {
        **_extent("parameters", parameters.initial),
        **_extent("final_parameters", parameters.final or parameters.initial),
        "paper_parameters": parameters.paper,
    }


def _extent(what: str, extent: tuple[int, int] | None) -> Fields:
    return {} if extent is None else {f"{what}_smallest": extent[0], f"{what}_largest": extent[1]}
