"""The values that options of `lora2 train` may have, as data, and the check of all of them.

Here is what neither the configurations of adapters nor the loading of data checks themselves.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lora2.errors import UserError
from lora2.training.arguments import RunSettings, as_typed
from lora2.training.methods.wrapping import one_word
from lora2.tuners.base.config import check_regular_expression


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers.

    Attributes:
        least: the lowest number.
        below: the number that all must be below, if there is one.
        open: whether `least` itself is left out.
        whole_from: from where on only whole numbers are allowed: a share below, a count from there.
        instead: what to write for an option that is not wanted, if that is not to leave it out.
    """

    least: float
    below: float = math.inf
    open: bool = False
    whole_from: float = math.inf
    instead: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is in the interval; NaN and infinities are in none."""
        if value == self.instead:
            return True
        if not self.least <= value < self.below or (self.open and value == self.least):
            return False
        return value < self.whole_from or value == int(value)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole_from <= self.least else "a finite number"
        lowest = f"above {self.least:g}" if self.open else f"of at least {self.least:g}"
        # No one meets the limits of 64 bits by writing a number that was wanted.
        highest = f" and below {self.below:,.0f}" if self.below <= 2**32 else ""
        whole = f", and a whole one from {self.whole_from:g}" if self._turns_whole else ""
        other = "" if self.instead is None else f", or {self.instead:g}"
        return f"{kind} {lowest}{highest}{whole}{other}"

    @property
    def _turns_whole(self) -> bool:
        return self.least < self.whole_from < math.inf


_POSITIVE = Range(0, open=True)
_NOT_NEGATIVE = Range(0)
_COUNT = Range(1, 2**63, whole_from=1)
_COUNT_OR_NONE = Range(0, 2**63, whole_from=0)
_SHARE = Range(0, 1)
# What numpy takes; torch takes more.
_SEED = Range(0, 2**32, whole_from=0)
SIZE = Range(1, 2**24, whole_from=1)
"""Sizes of adapters and of what is made in memory; beyond, no machine has that much."""
# A share of all steps, or a number of steps.
_INTERVAL = Range(0, open=True, whole_from=1)

RANGES: Mapping[str, Range] = {
    "num_train_epochs": Range(0, 1e9, open=True),
    "max_steps": Range(1, 2**63, whole_from=1, instead=-1),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "learning_rate": _NOT_NEGATIVE,
    "head_learning_rate": _NOT_NEGATIVE,
    "warmup_steps": Range(0, whole_from=1),
    "weight_decay": _NOT_NEGATIVE,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _POSITIVE,
    "logging_steps": _INTERVAL,
    "eval_steps": _INTERVAL,
    "save_steps": _INTERVAL,
    "eval_delay": _NOT_NEGATIVE,
    "save_total_limit": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "torch_empty_cache_steps": _COUNT,
    "seed": _SEED,
    "data_seed": _SEED,
    "dataset_seed": _SEED,
    "dataloader_num_workers": _COUNT_OR_NONE,
    "dataloader_prefetch_factor": _COUNT,
    "ddp_bucket_cap_mb": _COUNT,
    "ddp_timeout": _COUNT,
    "baseline_epochs": Range(0, 1e9, open=True),
    "exact_match_rows": _COUNT_OR_NONE,
    "max_new_tokens": _COUNT,
    "train_rows": _COUNT,
    "validation_rows": _COUNT,
    # They are made in memory.
    "train_sentences": SIZE,
    "validation_sentences": SIZE,
    # The largest number that float32 holds.
    "lora_alpha": Range(0, 3.4e38, open=True),
    "k": SIZE,
    "init_r": SIZE,
    "bottleneck_size": SIZE,
    "virtual_tokens": SIZE,
}

# What the parser does not know already.
CHOICES: Mapping[str, Collection[str]] = {
    # `best` needs a metric of the trainer's, which `lora2 train` does not set.
    "save_strategy": ("no", "steps", "epoch"),
    "torch_compile_mode": (
        "default",
        "reduce-overhead",
        "max-autotune",
        "max-autotune-no-cudagraphs",
    ),
}

PACKAGES: Mapping[str, str] = {"deepspeed": "deepspeed", "use_liger_kernel": "liger_kernel"}
"""What must be installed for options of the trainer that are given."""


def check_values(settings: RunSettings) -> None:
    """Check the numbers and names of a run's options.

    Raises:
        UserError: a number out of its range, a name that is none, or no regular expression.
    """
    for name, value in settings.to_options().items():
        if name in RANGES and value is not None:
            check_number(name, value, RANGES[name])
        if name in CHOICES and value is not None:
            _check_choices(name, value, CHOICES[name])
        if name in PACKAGES and value:
            _check_installed(name, value, PACKAGES[name])
    _check_patterns(settings)


def _check_patterns(settings: RunSettings) -> None:
    """Check the regular expressions; the configurations would, but after the data are loaded."""
    options = one_word(settings.adapter)
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        value = options.get(name)
        patterns = value if name == "layers_pattern" and isinstance(value, list) else [value]
        for pattern in patterns:
            if isinstance(pattern, str):
                check_regular_expression(name, pattern)
    for name in ("k_pattern", "rank_pattern"):
        for pattern in options.get(name) or ():
            check_regular_expression(name, pattern)
            value = options[name][pattern]
            if isinstance(value, int | float) and value > 0:
                check_number(f"{name}[{pattern!r}]", value, SIZE)
    for pattern, value in (options.get("alpha_pattern") or {}).items():
        check_regular_expression("alpha_pattern", pattern)
        check_number(f"alpha_pattern[{pattern!r}]", value, RANGES["lora_alpha"])


def check_number(name: str, value: Any, allowed: Range) -> None:
    """Check one number.

    Raises:
        UserError: it is not in the range.
    """
    if not allowed.holds(value):
        raise UserError(f"{name}={value} must be {allowed}.")


def _check_choices(name: str, value: Any, allowed: Collection[str]) -> None:
    given = as_typed(value)
    unknown = [word for word in given.split() if word not in allowed]
    if unknown:
        raise UserError(f"{name}={given} must be {' or '.join(allowed)}.")


def _check_installed(name: str, value: Any, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{name}={as_typed(value)} needs the Python package {package.replace('_', '-')}, which "
            f"is not installed: run `pip install {package.replace('_', '-')}`, or leave it out."
        )
