"""The options of `lora2 train` that say on which data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lora2.data.named_tasks import AGREEMENT_SENTENCES, DRAWN, IN_FILES, task_names
from lora2.data.tasks.labelled_task import Kind
from lora2.support.option_need import Need
from lora2.support.ranges import SEED, SIZE

_OWN_DATA = Need(
    "without your own data (--train_file or --dataset)", lambda settings: settings.task is None
)
_AGREEMENT = Need("without --task agreement", lambda settings: settings.task == "agreement")
_IN_FILES = Need(
    f"without a task of files (--task {', '.join(IN_FILES)})",
    lambda settings: settings.task in IN_FILES,
)
_DRAWN = Need(
    "on data that are neither generated nor split",
    lambda settings: (
        settings.task in DRAWN or (settings.task is None and settings.data.validation_file is None)
    ),
)


def _listed(objective: str) -> str:
    return ", ".join(task_names(objective))


@dataclass
class DataArguments:
    """Which task or data to train on."""

    task: str | None = field(
        default=None,
        metadata={
            "help": f"A named task: {_listed('classification')}; of --objective sft, "
            f"{_listed('sft')}; of dpo, {_listed('dpo')}; of token-classification, "
            f"{_listed('token-classification')}; of image-classification, "
            f"{_listed('image-classification')}. Without it and without data of your own: "
            "the first of the objective, which needs no network."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "needs": _IN_FILES,
            "help": "Folder of the official GLUE files, without which they come from the hub; of "
            "--task snips, of its train.jsonl and validation.jsonl.",
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own data: a CSV, TSV, JSON, JSON lines or Parquet file; of --objective "
            "image-classification, also a folder with one folder for each class."
        },
    )
    validation_file: str | None = field(
        default=None,
        metadata={
            "needs": Need(
                "without --train_file", lambda settings: settings.data.train_file is not None
            ),
            "help": "Validation data; without it a tenth of the training rows is split off.",
        },
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Name of a hub dataset, instead of files."}
    )
    dataset_config: str | None = field(
        default=None,
        metadata={
            "needs": Need("without --dataset", lambda settings: settings.data.dataset is not None),
            "help": "Configuration of the hub dataset, if it has several.",
        },
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={
            "needs": _OWN_DATA,
            "help": "The one or two text columns of your data; of --objective sft: messages, or "
            "prompt and completion, or one column of texts; of dpo: prompt, chosen and rejected, "
            "or the last two; of token-classification: the column of words, or of texts.",
        },
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "needs": _OWN_DATA,
            "help": "The label column of your data; 'label' unless given. Of --objective "
            "token-classification: the column of BIO tags, or of spans.",
        },
    )
    image_column: str | None = field(
        default=None,
        metadata={
            "needs": _OWN_DATA,
            "help": "The column of your data with images or their paths, of --objective "
            "image-classification; 'image' unless given.",
        },
    )
    kind: Kind | None = field(
        default=None,
        metadata={
            "needs": _OWN_DATA,
            "help": "What the labels are; classification unless given.",
        },
    )
    max_length: int = field(
        default=128,
        metadata={"help": "Tokens at which a text (or pair) is cut off; 1,024 for texts to write."},
    )
    train_sentences: int = field(
        default=AGREEMENT_SENTENCES["train"],
        metadata={
            "range": SIZE,
            "needs": _AGREEMENT,
            "help": "Training sentences of agreement, an even number.",
        },
    )
    validation_sentences: int = field(
        default=AGREEMENT_SENTENCES["validation"],
        metadata={
            "range": SIZE,
            "needs": _AGREEMENT,
            "help": "Validation sentences of agreement, an even number.",
        },
    )
    dataset_seed: int = field(
        default=0,
        metadata={
            "range": SEED,
            "needs": _DRAWN,
            "help": "Generates agreement, rewrite or preferences, draws the rows of snips, and "
            "splits validation rows off. Apart from --seed, so that runs with other seeds see the "
            "same data.",
        },
    )

    def for_loader(self, *names: str) -> dict[str, Any]:
        """Return the options that name the data, as the loaders of `lora2.data` take them.

        names: of the columns, and of what else one loader reads and not all of them.
        """
        of_all = ("task", "train_file", "validation_file", "dataset", "dataset_config")
        named = {name: getattr(self, name) for name in (*of_all, *names)}
        return named | {"data_seed": self.dataset_seed}
