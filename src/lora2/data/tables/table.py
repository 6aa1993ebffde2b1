"""Named columns of values, as every kind of file or dataset is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora2.errors import UserError


@dataclass(frozen=True)
class DataTable:
    """Named columns of equally many values.

    Attributes:
        source: what error messages call the table: a path or a dataset's name.
        column_names: in the order of the source.
        rows: number of rows.
        read_column: returns one column, None for missing values. A function, so that a wide
            Parquet file is not turned into Python objects for the sake of two columns.
        class_names: of columns that come with the names of their classes (hub datasets).
        types: Arrow's types of columns, where the source has them (Parquet).
    """

    source: str
    column_names: tuple[str, ...]
    rows: int
    read_column: Callable[[str], list[object]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)

    def column(self, name: str, role: str) -> list[object]:
        """Return the values of column `name`; `role` is the option that asked for it.

        Raises:
            UserError: there is no such column.
        """
        if name not in self.column_names:
            raise UserError(
                f"{role}: {self.source} has no column {name!r}; its columns are "
                f"{listed(self.column_names)}."
            )
        return self.read_column(name)

    def records(self) -> list[dict[str, object]]:
        """Return one dictionary a row, with all columns in their order."""
        columns = [self.read_column(name) for name in self.column_names]
        return [
            dict(zip(self.column_names, row, strict=True)) for row in zip(*columns, strict=True)
        ]


def listed(names: Iterable[str]) -> str:
    """Return names for a sentence, in quotes where one could be taken for several or for none."""
    return ", ".join(
        repr(name) if name != name.strip() or not name or {",", "'", '"'} & set(name) else name
        for name in names
    )
