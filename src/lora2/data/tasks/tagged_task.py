"""TaggedTask: texts as words, each of which has a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora2.data.tasks.task import Task
from lora2.support.extras import require

if TYPE_CHECKING:
    from datasets import Dataset

TOKENS_COLUMN = "tokens"
TAGS_COLUMN = "tags"

RowsOf = Literal["words", "spans"]

KIND = "tags"
"""The `kind` of such a task in task.json, in place of classification or regression."""


@dataclass(frozen=True, kw_only=True)
class TaggedTask(Task):
    """A task of tags: sets with columns `tokens` (words) and `tags` (indices into `label_names`).

    Attributes:
        rows_of: how a row of the *source* is written: a list of words and one of tags, or a text
            and a list of spans.
        text_column: the column of the source with words or text.
        label_column: the column of the source with tags or spans.
        label_names: all tags, O first.
    """

    kind: ClassVar[str] = KIND
    described: ClassVar[Mapping[str, Any]] = {
        **Task.described,
        "kind": str,
        "rows_of": RowsOf,
        "text_columns": list[str],
        "label_column": str,
        "label_names": list[str],
    }

    rows_of: RowsOf
    text_column: str
    label_column: str
    label_names: tuple[str, ...]

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column with words or text, as task.json has those of all tasks of texts."""
        return (self.text_column,)


def build_tagged(
    tokens: Sequence[Sequence[str]], tags: Sequence[Sequence[int]] | None = None
) -> Dataset:
    """Make an in-memory Dataset of words and, if given, tags."""
    datasets = require("datasets", extra="train")
    columns: dict[str, Any] = {TOKENS_COLUMN: tokens}
    types = {TOKENS_COLUMN: datasets.Sequence(datasets.Value("string"))}
    if tags is not None:
        columns[TAGS_COLUMN] = tags
        types[TAGS_COLUMN] = datasets.Sequence(datasets.Value("int64"))
    dataset: Dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(types))
    return dataset
