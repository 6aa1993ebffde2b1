"""One entry to all data of preferences: generated ones of rewrite, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

from lora2.data.builtin.rewrite import SYSTEM, rewrite_preferences
from lora2.data.loading.texts import load_text_task, rewrite_sizes, rows_as_dataset
from lora2.data.named_tasks import WRITTEN_ROWS, task_names
from lora2.data.own.named_or_own import is_named
from lora2.data.own.source import OwnSource
from lora2.data.tasks.metric_names import PREFERENCE_METRICS
from lora2.data.tasks.writing_task import FORMS, PREFERENCES, WritingTask


def load_preference_task(
    task: str | None = None,
    *,
    text_columns: Sequence[str] | None = None,
    train_rows: int = WRITTEN_ROWS["train"],
    validation_rows: int = WRITTEN_ROWS["validation"],
    data_seed: int = 0,
    **source: Unpack[OwnSource],
) -> WritingTask:
    """Load a named task, the user's files, or a hub dataset; preferences if nothing is named.

    Args:
        task: the name of a task of dpo.
        text_columns: `prompt`, `chosen` and `rejected`, or the last two; guessed if obvious.
        train_rows: of preferences.
        validation_rows: of preferences.
        data_seed: generates preferences and splits off validation rows.
        source: of the user's own data, as `OwnSource` says.

    Raises:
        UserError: options that contradict each other, or data that cannot be used.
    """
    own = {
        **source,
        "text_columns": text_columns,
    }
    if is_named(task, task_names("dpo"), "preferences", own):
        return _generated(train_rows, validation_rows, data_seed)
    loaded = load_text_task(
        text_columns=text_columns, data_seed=data_seed, forms=PREFERENCES, **source
    )
    return replace(loaded, metrics=PREFERENCE_METRICS, main_metric=PREFERENCE_METRICS[0])


def _generated(train_rows: int, validation_rows: int, data_seed: int) -> WritingTask:
    sizes = rewrite_sizes(train_rows, validation_rows, "preferences")
    sets = {
        split: rows_as_dataset(
            [_row(*each) for each in rewrite_preferences(split, rows, data_seed)]
        )
        for split, rows in sizes.items()
    }
    return WritingTask(
        name="preferences",
        train=sets["train"],
        validation={"validation": sets["validation"]},
        metrics=PREFERENCE_METRICS,
        main_metric=PREFERENCE_METRICS[0],
        form="preference",
        conversational=True,
        system=SYSTEM,
        columns=FORMS["preference"].columns,
    )


def _row(text: str, right: str, wrong: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        "chosen": [{"role": "assistant", "content": right}],
        "rejected": [{"role": "assistant", "content": wrong}],
    }
