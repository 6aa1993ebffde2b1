"""The options of `lora2 train` that say what is trained, and where it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lora2.support.option_need import Need
from lora2.support.ranges import EPOCHS, NOT_NEGATIVE
from lora2.training.options.named_tasks import ObjectiveName
from lora2.training.options.peft_registry import ANY, KINDS

HEAD_ALONE = "head"
"""The name of the method that trains the task's head and nothing else."""

# The names in `lora2.training.methods.registry`, for the command line's choices.
_METHODS = (
    HEAD_ALONE, "bitfit", "full", "bottleneck", "prompt", "lora", "adalora", "sora", "lora2",
)  # fmt: skip
if TYPE_CHECKING:
    # The names in KINDS depend on the version of PEFT.
    MethodName = str
else:
    MethodName = Literal[(*_METHODS, ANY, *KINDS)]
Baseline = Literal["none", "head"]


def _is_head_alone(settings: Any) -> bool:
    return bool(settings.run.method == HEAD_ALONE)


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
                lambda settings: not _is_head_alone(settings),
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
                lambda settings: settings.run.baseline == "head" and not _is_head_alone(settings),
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
                lambda settings: not _is_head_alone(settings),
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
