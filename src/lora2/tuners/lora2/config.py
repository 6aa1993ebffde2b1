"""The adapter's configuration, a PEFT config like any other."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from peft.utils import PeftType

from lora2.mathematics.importance import IMPORTANCES
from lora2.mathematics.orthogonality import ORTHOGONALITY_TERMS, OrthogonalityTerms
from lora2.mathematics.schedule import BUDGET_SHAPES, BudgetShape
from lora2.tuners.base.config.field_checks import (
    check_choice,
    check_share,
    check_whole,
    checked_pattern,
)
from lora2.tuners.base.config.patterns import looked_up
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.lora2.config_checks import (
    check_scales,
    check_schedule,
    check_target,
    check_width_for_parameters,
    checked_parameters,
)
from lora2.tuners.lora2.matrix_size import MatrixSize

Orthogonality = Literal["exact", "penalty", "none"]
# The names of the table, so that a new score needs no other entry; mypy takes no computed type.
if TYPE_CHECKING:
    Importance = str
else:
    Importance = Literal[tuple(IMPORTANCES)]
BudgetUnit = Literal["values", "parameters"]
SCHEDULE_FIELDS = (
    "target_r", "budget_unit", "tinit", "tfinal", "deltaT", "budget_schedule", "importance",
    "beta1", "beta2",
)  # fmt: skip
"""The fields that say what is pruned and when; without `target_r` the others have no effect."""
Start = Literal["lora", "gradient", "orthonormal", "gaussian"]

_WINDOW = (0.3, 0.3)
# For strong pruning: with the earlier window, a task that is learnt late lost the values it needed
# when one of eight was left (docs/notebook/experiments.md, "Pruned to an eighth").
_LATE_WINDOW = (0.5, 0.2)

# It is not a field, so that neither `to_dict` nor a comparison of configs knows it.
_NEXT_SAVE = "_patterns_of_next_save"


@dataclass
class Lora2Config(TargetConfig):
    """Configuration of a LoRA² adapter, W + P Λ Q with P = v u and Q = 𝒰 𝒱 (eq. 4).

    Names that AdaLoRA or LoRA have too mean the same here. `tinit`, `tfinal` and `deltaT` are
    optimizer steps if whole numbers, or a fraction of all steps if between 0 and 1.

    Raises:
        UserError: a value is invalid; the sentence says what to write instead.
    """

    label: ClassVar[str] = "LoRA²"
    pruned_parts: ClassVar[str] = "singular values"
    adapts_parameters: ClassVar[bool] = True
    fields_of_others: ClassVar[Mapping[str, str]] = {
        "r": "the rank of the change is called k here, and init_r is the number of singular values "
        "that a matrix starts with",
        **dict.fromkeys(("rank", "lora_r", "lora_rank"), "the rank of the change is called k here"),
        "alpha": "it is called lora_alpha here",
        "dropout": "it is called lora_dropout here",
        "use_rslora": "the scaling is lora_alpha / k, so multiply lora_alpha by the square root of "
        "k to get that of rank-stabilized LoRA",
        "total_steps": "it is called total_step here, and only update_and_allocate needs it",
    }
    needed_fields: ClassVar[tuple[str, ...]] = ("k", "init_r", "lora_alpha", "orthogonality")

    target_parameters: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of parameters to adapt, such as 'experts.down_proj': the weights of "
            "experts are parameters [experts, ., .] and not modules. Each expert's matrix gets an "
            "adapter of its own. None: those that target_modules names, as PEFT's LoRA takes it "
            "(w1, w2, w3, gate_proj, 'all-linear' of a mixture of experts); []: none."
        },
    )
    k: int = field(
        default=8,
        metadata={
            "help": "Width of the outer pair (v, 𝒱): the largest rank that the change of a matrix "
            "can have. Matrices with a smaller side get that side."
        },
    )
    init_r: int = field(
        default=8,
        metadata={"help": "Singular values a matrix starts with, before any are pruned."},
    )
    target_r: float | None = field(
        default=None,
        metadata={
            "help": "Singular values a matrix keeps at the end, on average over all matrices (may "
            "be a fraction). None, or init_r: none are pruned."
        },
    )
    lora_alpha: float = field(
        default=4.0,
        metadata={
            "help": "Scale of the change: the scaling is lora_alpha / k, as LoRA's for rank k, and "
            "lora_alpha / init_r in the paper's form (orthogonality='penalty')."
        },
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout probability of the adapter's input."}
    )
    orthogonality: Orthogonality = field(
        default="exact",
        metadata={
            "help": "'exact': v is orthonormal by construction. 'penalty': the paper's form, "
            "Gaussian start and a penalty on the loss. 'none': free factors."
        },
    )
    orthogonality_terms: OrthogonalityTerms = field(
        default="all",
        metadata={"help": "Which factors the penalty holds orthonormal (the paper's Table 3)."},
    )
    orth_reg_weight: float = field(
        default=0.1, metadata={"help": "Weight of the orthogonality penalty."}
    )
    importance: Importance = field(
        default="reduced",
        metadata={
            "help": "Importance of a singular value: "
            + " or ".join(f"{name!r} ({score.source})" for name, score in IMPORTANCES.items())
            + "."
        },
    )
    budget_unit: BudgetUnit = field(
        default="values",
        metadata={
            "help": "What the budget counts. 'values': singular values. 'parameters': those of a "
            "LoRA with the kept ranks, so that target_r=1 ends at the size of a LoRA of rank 1; "
            "importance is then taken per parameter."
        },
    )
    beta1: float = field(default=0.85, metadata={"help": "Smoothing of the sensitivity."})
    beta2: float = field(default=0.85, metadata={"help": "Smoothing of its uncertainty."})
    budget_schedule: BudgetShape = field(
        default="cubic", metadata={"help": "How the budget falls between tinit and tfinal."}
    )
    tinit: float | None = field(
        default=None,
        metadata={
            "help": "Steps (or fraction) before the first singular value is pruned. None: 0.3, or "
            "0.5 where less than half of init_r is to be left and tfinal is None too."
        },
    )
    tfinal: float | None = field(
        default=None,
        metadata={
            "help": "Steps (or fraction) at the end in which the kept set stays as it is: a "
            "duration, not a point in time. None: 0.3, or 0.2 where less than half of init_r is to "
            "be left and tinit is None too."
        },
    )
    deltaT: float = field(  # noqa: N815 (AdaLoRA's name)
        default=1, metadata={"help": "Steps (or fraction) between two allocations."}
    )
    total_step: int | None = field(
        default=None,
        metadata={
            "help": "Number of optimizer steps. Only for loops that call update_and_allocate; "
            "Lora2Callback and RankAllocator know it themselves."
        },
    )
    k_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Another k for modules that match a pattern."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict,
        metadata={
            "help": "Another init_r for modules that match a pattern; 0: the module is not "
            "adapted, and counts in the mean target_r all the same."
        },
    )
    alpha_pattern: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Another lora_alpha for modules that match a pattern."},
    )
    init_weights: bool | Start = field(
        default=True,
        metadata={
            "help": "True: the start that suits the orthogonality. 'lora': Λ = 1 and 𝒱 = 0; "
            "'gradient': the same, and before the first step v is turned towards what the "
            "gradients of 16 batches have in common, by Lora2Callback or start_from_gradients; "
            "'orthonormal' and 'gaussian' (the paper's): Λ = 0. False: a random start that "
            "changes the model, for tests."
        },
    )
    init_std: float = field(
        default=0.02, metadata={"help": "Standard deviation of the Gaussian start."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["LORA2"]
        self.target_parameters = checked_parameters(
            self.target_parameters, is_saved=self.inference_mode
        )
        self._check_choices()
        self._check_sizes()
        check_schedule(*self.window, self.deltaT, self.total_step)

    def sizes_in_words(self) -> str:
        """Return the sizes, the budget, the scale and the form."""
        kept = "" if self.target_r is None else f", target_r = {self.target_r:g}"
        return (
            f"k = {self.k}, init_r = {self.init_r}{kept}, lora_alpha = {self.lora_alpha:g}, "
            f"orthogonality = {self.orthogonality}"
        )

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save the fields, or in their place the patterns that `save_next_with` was given."""
        saved = copy.copy(self)
        saved.__dict__ |= self.__dict__.pop(_NEXT_SAVE, {})
        super(Lora2Config, saved).save_pretrained(save_directory, **kwargs)

    def save_next_with(self, patterns: Mapping[str, Mapping[str, float]]) -> None:
        """Make the next `save_pretrained`, and only that one, write these patterns.

        `PeftModel.save_pretrained` reads the state dict of an adapter and then saves its config,
        which gets neither the tensors nor the model. So the tuner calls this method whenever a
        state dict is read, with the sizes of the tensors in it: a reader that makes the modules
        before it reads the weights (transformers' `load_adapter`) needs them in the file. The
        fields stay as they are, because a state dict is read for other reasons too, and the user
        may use the config again.
        """
        self.__dict__[_NEXT_SAVE] = dict(patterns)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same fields in files: a window in numbers equals its default."""
        return type(other) is type(self) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as files have them.

        A file has the window in numbers, because a later version may have other defaults.
        """
        tinit, tfinal = self.window
        return super().to_dict() | {"tinit": tinit, "tfinal": tfinal}

    @property
    def prunes(self) -> bool:
        """Whether a budget below the initial number of singular values is asked for."""
        return self.target_r is not None and self.target_r < self.init_r

    @property
    def has_penalty(self) -> bool:
        """Whether a penalty on the factors is added to the loss."""
        return self.orthogonality == "penalty" and self.orth_reg_weight > 0

    @property
    def window(self) -> tuple[float, float]:
        """`tinit` and `tfinal`, in steps or fractions of all; of what is None, the default."""
        prunes_most = self.target_r is not None and self.target_r < self.init_r / 2
        if self.tinit is None and self.tfinal is None:
            return _LATE_WINDOW if prunes_most else _WINDOW
        return (
            _WINDOW[0] if self.tinit is None else self.tinit,
            _WINDOW[1] if self.tfinal is None else self.tfinal,
        )

    def asked_for(self, module_name: str) -> tuple[int, int, float]:
        """Return the k, init_r and lora_alpha of the module of this name, by the patterns."""
        return (
            looked_up(self.k_pattern, module_name, self.k),
            looked_up(self.rank_pattern, module_name, self.init_r),
            looked_up(self.alpha_pattern, module_name, self.lora_alpha),
        )

    def initial_budget(self, matrices: Iterable[MatrixSize]) -> int:
        """Return the budget at the start, in `budget_unit`: all singular values."""
        in_parameters = self.budget_unit == "parameters"
        return sum(each.parameters(each.r) if in_parameters else each.r for each in matrices)

    def target_budget(self, matrices: Sequence[MatrixSize]) -> int:
        """Return the budget at the end, in `budget_unit`."""
        whole = self.initial_budget(matrices)
        if not self.prunes or self.target_r is None:
            return whole
        costs, impossible = [1] * len(matrices), 0.0
        if self.budget_unit == "parameters":
            costs = [matrix.cost for matrix in matrices]
            # The ranks that narrow matrices cannot have are not for others.
            impossible = sum(
                matrix.cost * max(0.0, self.target_r - matrix.k)
                for matrix in matrices
                if matrix.is_narrow
            )
        # One value is left, which a matrix that has none cannot have.
        least = min((cost for cost, m in zip(costs, matrices, strict=True) if m.r), default=0)
        return max(least, min(whole, round(self.target_r * sum(costs) - impossible)))

    @property
    def start(self) -> Start | Literal[False]:
        """The start that `init_weights` names."""
        if self.init_weights is True:
            return "gaussian" if self.orthogonality == "penalty" else "lora"
        return self.init_weights

    def scaling(self, k: int, r: int, alpha: float | None = None) -> float:
        """Factor of Δ for a matrix of outer width k and r initial singular values.

        alpha: the matrix's own lora_alpha; the adapter's unless given.

        α/k is LoRA's rule, for Δ is a LoRA of rank k; with it one learning rate serves k = 1 and
        k = 8 (docs/notebook/learning.md). The paper's form has α/r, r the initial number, never
        rescaled.
        """
        alpha = self.lora_alpha if alpha is None else alpha
        return alpha / (r if self.orthogonality == "penalty" else k)

    def _check_choices(self) -> None:
        choices = {
            "orthogonality": get_args(Orthogonality),
            "orthogonality_terms": ORTHOGONALITY_TERMS,
            "importance": tuple(IMPORTANCES),
            "budget_schedule": BUDGET_SHAPES,
            "budget_unit": get_args(BudgetUnit),
            "init_weights": (True, False, *get_args(Start)),
        }
        for name, allowed in choices.items():
            check_choice(name, getattr(self, name), allowed)
        for name in ("beta1", "beta2", "lora_dropout"):
            check_share(name, getattr(self, name))

    def _check_sizes(self) -> None:
        check_whole("k", self.k)
        check_whole("init_r", self.init_r)
        self.k_pattern = checked_pattern("k_pattern", self.k_pattern)
        # A finished adapter may have matrices with nothing left.
        self.rank_pattern = checked_pattern("rank_pattern", self.rank_pattern, lowest=0)
        self.alpha_pattern = self.alpha_pattern or {}
        check_scales(self.lora_alpha, self.alpha_pattern, self.orth_reg_weight, self.init_std)
        if self.budget_unit == "parameters":
            check_width_for_parameters(self.k, self.init_r)
        if self.target_r is not None:
            check_target(self.target_r, self.init_r)
