"""The options of `lora2 train` with `--objective sft` or `dpo` that nothing else has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lora2.data.named_tasks import WRITTEN_ROWS, task_names
from lora2.support.option_need import Need
from lora2.support.ranges import COUNT, COUNT_OR_NONE, POSITIVE, SIZE

_TASKS = (*task_names("sft"), *task_names("dpo"))
_LISTED = f"{', '.join(_TASKS[:-1])} or {_TASKS[-1]}"
_NAMED = Need(f"without --task {_LISTED}", lambda settings: settings.task in _TASKS)
_PACKING = Need(
    "without --packing True",
    lambda settings: bool(settings.text.packing or settings.text.eval_packing),
)


# TRL has more of them, which need further options: exo_pair and robust; its sft is that objective.
PreferenceLoss = Literal[
    "sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sigmoid_norm",
]  # fmt: skip
LossType = Literal["nll", "dft", PreferenceLoss]


@dataclass
class TextArguments:
    """More options of training a language model; most are fields of trl.SFTConfig or DPOConfig."""

    train_rows: int = field(
        default=WRITTEN_ROWS["train"],
        metadata={
            "range": COUNT,
            "needs": _NAMED,
            "help": "Training rows of rewrite or snips, or of preferences, which has 160 unless "
            "given.",
        },
    )
    validation_rows: int = field(
        default=WRITTEN_ROWS["validation"],
        metadata={
            "range": COUNT,
            "needs": _NAMED,
            "help": f"Validation rows of {_LISTED}.",
        },
    )
    exact_match_rows: int = field(
        default=0,
        metadata={
            "range": COUNT_OR_NONE,
            "help": "Validation prompts that are answered before and after training, greedily, and "
            "scored by exact match with the right answer. 0: none. The recipes of rewrite and "
            "snips have 100.",
        },
    )
    max_new_tokens: int = field(
        default=32, metadata={"range": SIZE, "help": "Tokens at which such an answer is cut off."}
    )
    new_tokens: list[str] | None = field(
        default=None,
        metadata={
            "needs": Need(
                "with --start_from, whose adapter brings its own",
                lambda settings: settings.adapter["start_from"] is None,
            ),
            "help": "Tokens to add to the tokenizer, such as <tool>. Their rows of the embedding, "
            "and of the head, start near the mean of the others and are trained whole.",
        },
    )
    completion_only_loss: bool | None = field(
        default=None,
        metadata={
            "help": "Whether only completions are learnt, not prompts. Unless given: yes for rows "
            "of prompt and completion."
        },
    )
    assistant_only_loss: bool = field(
        default=False,
        metadata={"help": "Whether only the assistant's messages are learnt, of rows of messages."},
    )
    packing: bool = field(
        default=False,
        metadata={"help": "Put several rows into one of max_length tokens."},
    )
    packing_strategy: Literal["bfd", "bfd_split", "wrapped"] = field(
        default="bfd",
        metadata={
            "needs": _PACKING,
            "help": "bfd: best fit, longer rows are cut off; bfd_split: longer rows are split; "
            "wrapped: rows are cut wherever one is full.",
        },
    )
    eval_packing: bool | None = field(
        default=None,
        metadata={"help": "Whether validation rows are packed; as packing unless given."},
    )
    loss_type: LossType = field(
        default="nll",
        metadata={
            "help": "Of sft nll, the usual loss, or dft, Dynamic Fine-Tuning. Of dpo all others, "
            "TRL's losses of preferences; sigmoid unless given."
        },
    )
    beta: float = field(
        default=0.1,
        metadata={
            "range": POSITIVE,
            "help": "Of dpo: how much a departure from the reference costs; of ipo, τ.",
        },
    )

    @property
    def packs_validation(self) -> bool:
        """Whether validation rows are packed."""
        return self.packing if self.eval_packing is None else self.eval_packing


PREFERENCE_OPTIONS = frozenset({"beta"})
"""The options among these that rows of texts to write have no use for."""
