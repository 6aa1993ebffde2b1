"""One entry to all texts with labels: agreement, GLUE, or the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from lora2.data.builtin.agreement import LABEL_NAMES, agreement_pairs
from lora2.data.builtin.drawing import Split
from lora2.data.named_tasks import AGREEMENT_SENTENCES, task_names
from lora2.data.own.labelled import task_from_tables
from lora2.data.own.named_or_own import is_named
from lora2.data.own.source import OwnSource, own_tables
from lora2.data.public.glue import GLUE_TASKS
from lora2.data.public.glue_loading import load_glue_folder, load_glue_from_hub
from lora2.data.tasks.labelled_task import Kind, LabelledTextTask, build_dataset
from lora2.data.tasks.task import LABEL_COLUMN
from lora2.errors import UserError


def load_task(
    task: str | None = None,
    *,
    data_dir: Path | str | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    kind: Kind | None = None,
    train_sentences: int = AGREEMENT_SENTENCES["train"],
    validation_sentences: int = AGREEMENT_SENTENCES["validation"],
    data_seed: int = 0,
    **source: Unpack[OwnSource],
) -> LabelledTextTask:
    """Load a named task, the user's files, or a hub dataset; agreement if nothing is named.

    Args:
        task: the name of a task of classification.
        data_dir: folder of the official GLUE files; without it GLUE comes from the hub.
        text_columns: one or two columns of the user's data; guessed if obvious.
        label_column: of the user's data; "label" unless given.
        kind: of the user's data; classification unless given.
        train_sentences: of agreement, an even number.
        validation_sentences: of agreement, an even number.
        data_seed: generates agreement and splits off validation rows. It is not the seed of
            training: runs that are compared see the same data.
        source: of the user's own data, as `OwnSource` says.

    Raises:
        UserError: options that contradict each other, or data that cannot be used.
    """
    own = {
        **source,
        "text_columns": text_columns,
        "label_column": label_column,
        "kind": kind,
    }
    if is_named(task, task_names("classification"), "texts to label", own):
        return _named_task(
            task or task_names("classification")[0],
            data_dir,
            train_sentences,
            validation_sentences,
            data_seed,
        )
    if data_dir is not None:
        given = next(name for name, value in own.items() if value is not None)
        raise UserError(
            f"data_dir: it is the folder of the GLUE files and does not go with {given}; "
            f"name a GLUE task, or leave it out."
        )
    if kind not in (None, "classification", "regression"):
        raise UserError(f"kind: got {kind!r}; write classification or regression.")
    name, train, validation = own_tables(source)
    return task_from_tables(
        name,
        train,
        validation,
        text_columns=text_columns,
        label_column=label_column or LABEL_COLUMN,
        kind=kind or "classification",
        data_seed=data_seed,
    )


def _named_task(
    task: str,
    data_dir: Path | str | None,
    train_sentences: int,
    validation_sentences: int,
    data_seed: int,
) -> LabelledTextTask:
    if task in GLUE_TASKS:
        return load_glue_folder(task, Path(data_dir)) if data_dir else load_glue_from_hub(task)
    if data_dir is not None:
        raise UserError(
            f"data_dir: {data_dir} is of no use to the generated task agreement; leave it out, or "
            f"name the GLUE task to read from it ({', '.join(GLUE_TASKS)})."
        )
    return _agreement(train_sentences, validation_sentences, data_seed)


def _agreement(train_sentences: int, validation_sentences: int, data_seed: int) -> LabelledTextTask:
    sizes: dict[Split, int] = {"train": train_sentences, "validation": validation_sentences}
    sets = {}
    for split, sentences in sizes.items():
        texts, labels = agreement_pairs(split, sentences, data_seed)
        sets[split] = build_dataset([texts], labels)
    return LabelledTextTask(
        name="agreement",
        text_columns=("text",),
        label_column=LABEL_COLUMN,
        kind="classification",
        label_names=LABEL_NAMES,
        train=sets["train"],
        validation={"validation": sets["validation"]},
        metrics=("accuracy",),
        main_metric="accuracy",
    )
