"""The configuration of a SoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from peft.utils import PeftType

from lora2.errors import UserError
from lora2.mathematics.soft_threshold import THRESHOLD_SHAPES, ThresholdShape
from lora2.tuners.base.config.field_checks import (
    check_choice,
    check_float32,
    check_share,
    check_whole,
    checked_pattern,
)
from lora2.tuners.base.config.target_config import TargetConfig


@dataclass
class SoraConfig(TargetConfig):
    """Configuration of a SoRA adapter, W + (lora_alpha / r) · B diag(g) A.

    Raises:
        UserError: a value is invalid; the sentence says what to write instead.
    """

    label: ClassVar[str] = "SoRA"
    fields_of_others: ClassVar[Mapping[str, str]] = {
        "k": "the rank that a matrix starts with is called r here",
        "init_r": "the rank that a matrix starts with is called r here",
        "target_r": "there is no budget, so choose threshold: a larger one closes more gates",
        "use_rslora": "the scaling is lora_alpha / r, so multiply lora_alpha by the square root of "
        "r to get that of rank-stabilized LoRA",
    }
    needed_fields: ClassVar[tuple[str, ...]] = ("lora_alpha",)

    r: int = field(default=8, metadata={"help": "Rank a matrix starts with, before gates close."})
    lora_alpha: float = field(
        default=16.0, metadata={"help": "Scale of the change: the scaling is lora_alpha / r."}
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout probability of the adapter's input."}
    )
    threshold: float = field(
        default=1e-4,
        metadata={"help": "ξ: how much each gate shrinks in every optimizer step."},
    )
    threshold_schedule: ThresholdShape = field(
        default="constant", metadata={"help": "How ξ grows from threshold to max_threshold."}
    )
    max_threshold: float | None = field(
        default=None, metadata={"help": "ξ in the last stage, unless the schedule is constant."}
    )
    threshold_stages: int = field(
        default=7, metadata={"help": "Equal parts of the training, of which each has one ξ."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "Another r for modules that match a pattern; written when pruned."},
    )
    init_weights: bool = field(
        default=True,
        metadata={"help": "False: a start that changes the model, for tests (B is not zero)."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["SORA"]
        check_whole("r", self.r)
        self.rank_pattern = checked_pattern("rank_pattern", self.rank_pattern, lowest=0)
        check_float32("lora_alpha", self.lora_alpha, default=16)
        check_share("lora_dropout", self.lora_dropout)
        self._check_threshold()

    def sizes_in_words(self) -> str:
        """Return the rank at the start and the scale."""
        return f"r = {self.r:g}, lora_alpha = {self.lora_alpha:g}"

    def _check_threshold(self) -> None:
        if self.threshold < 0:
            raise UserError(f"threshold={self.threshold} must not be negative; 0 closes no gate.")
        check_float32("threshold", self.threshold, default=1e-4, may_be_zero=True)
        check_choice("threshold_schedule", self.threshold_schedule, THRESHOLD_SHAPES)
        check_whole("threshold_stages", self.threshold_stages)
        if self.threshold_schedule == "constant":
            return
        if self.max_threshold is None or self.max_threshold < self.threshold:
            raise UserError(
                f"max_threshold={self.max_threshold} must be given, and not below threshold="
                f"{self.threshold}, with threshold_schedule={self.threshold_schedule!r}."
            )
        check_float32("max_threshold", self.max_threshold, may_be_zero=True)
        if self.threshold_schedule == "exp_linear" and self.threshold == 0:
            raise UserError("threshold=0 has no logarithm: write a small number for exp_linear.")
