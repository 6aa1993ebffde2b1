"""The tasks that have names: which objective learns them, and where their rows come from."""

from __future__ import annotations

from dataclasses import dataclass

from lora2.data.builtin.drawing import Split
from lora2.data.public.glue import GLUE_TASKS


@dataclass(frozen=True)
class NamedTask:
    """One task.

    Attributes:
        name: as users write it.
        objective: the name of the objective that learns it.
        is_in_files: whether its rows are read from files that the user names, or from the hub.
        is_drawn: whether a seed decides which rows there are, or which of them are held out.
    """

    name: str
    objective: str
    is_in_files: bool = False
    is_drawn: bool = True


NAMED_TASKS = (
    NamedTask("agreement", "classification"),
    *(NamedTask(name, "classification", is_in_files=True, is_drawn=False) for name in GLUE_TASKS),
    NamedTask("rewrite", "sft"),
    NamedTask("snips", "sft", is_in_files=True),
    NamedTask("preferences", "dpo"),
    NamedTask("appointments", "token-classification"),
    NamedTask("digits", "image-classification"),
)
"""The first task of each objective is taken where none is named."""

AGREEMENT_SENTENCES: dict[Split, int] = {"train": 2000, "validation": 400}
"""How many sentences of agreement there are, unless others are asked for."""

WRITTEN_ROWS: dict[Split, int] = {"train": 1200, "validation": 100}
"""How many rows of a named task of texts to write there are, unless others are asked for."""

IN_FILES = tuple(task.name for task in NAMED_TASKS if task.is_in_files)
DRAWN = tuple(task.name for task in NAMED_TASKS if task.is_drawn)


def task_names(objective: str) -> tuple[str, ...]:
    """Return the names of the tasks of one objective."""
    return tuple(task.name for task in NAMED_TASKS if task.objective == objective)
