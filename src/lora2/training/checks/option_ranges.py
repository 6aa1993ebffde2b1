"""The values that options of `lora2 train` may have, as data, and the check of all of them.

Here is what neither the configurations of adapters nor the loading of data checks themselves.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Collection, Mapping
from typing import Any

from lora2.errors import UserError
from lora2.support.ranges import (
    COUNT,
    COUNT_OR_NONE,
    EPOCHS,
    INTERVAL,
    NORMAL,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    SIZE,
    Range,
    check_number,
)
from lora2.training.checks.mapping_options import check_mappings
from lora2.training.methods.wrapping import one_word
from lora2.training.options.arguments import OPTION_GROUPS, RunSettings, as_typed
from lora2.tuners.base.config.field_checks import check_regular_expression

# Ranges of fields of transformers and of adapters' configs, which state none in their metadata.
_OF_OTHERS: Mapping[str, Range] = {
    "num_train_epochs": EPOCHS,
    "max_steps": Range(1, 2**63, whole_from=1, instead=-1),
    "per_device_train_batch_size": SIZE,
    "per_device_eval_batch_size": SIZE,
    "gradient_accumulation_steps": COUNT,
    "learning_rate": NOT_NEGATIVE,
    "warmup_steps": Range(0, whole_from=1),
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    # With less, the step of a parameter without a gradient is 0 / 0.
    "adam_epsilon": NORMAL,
    "max_grad_norm": NOT_NEGATIVE,
    "label_smoothing_factor": SHARE,
    "neftune_noise_alpha": POSITIVE,
    "logging_steps": INTERVAL,
    "eval_steps": INTERVAL,
    "save_steps": INTERVAL,
    "eval_delay": NOT_NEGATIVE,
    "save_total_limit": COUNT,
    "eval_accumulation_steps": COUNT,
    "torch_empty_cache_steps": COUNT,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": COUNT_OR_NONE,
    "dataloader_prefetch_factor": COUNT,
    "ddp_bucket_cap_mb": COUNT,
    "ddp_timeout": COUNT,
    "lora_alpha": POSITIVE,
    "k": SIZE,
    "init_r": SIZE,
    "bottleneck_size": SIZE,
}

RANGES: Mapping[str, Range] = {
    **_OF_OTHERS,
    **{
        each.name: each.metadata["range"]
        for group in OPTION_GROUPS.values()
        for each in dataclasses.fields(group)
        if "range" in each.metadata
    },
}
"""By option. A new option of `lora2 train` has its range in the metadata of its field."""

CHOICES: Mapping[str, Collection[str]] = {
    # `best` needs a metric of the trainer's, which `lora2 train` does not set.
    "save_strategy": ("no", "steps", "epoch"),
    # It may be true or false, too.
    "include_num_input_tokens_seen": ("all", "non_padding", "no"),
    "torch_compile_mode": (
        "default",
        "reduce-overhead",
        "max-autotune",
        "max-autotune-no-cudagraphs",
    ),
}
"""By option: where transformers' own type names none, or has more than can be used."""

PACKAGES: Mapping[str, str] = {"deepspeed": "deepspeed", "use_liger_kernel": "liger_kernel"}
"""The packages that options of the trainer need."""


def check_values(settings: RunSettings) -> None:
    """Check the numbers and names of a run's options.

    Raises:
        UserError: a number out of its range, a name that is none, no regular expression, or a
            mapping that holds something else than what is read of it.
    """
    for name, value in settings.to_options().items():
        if name in RANGES and value is not None:
            check_number(name, value, RANGES[name])
        if name in CHOICES and value is not None and not isinstance(value, bool):
            _check_choices(name, value, CHOICES[name])
        if name in PACKAGES and value:
            _check_installed(name, value, PACKAGES[name])
    check_mappings(settings.training)
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
        # The config refuses a value that is not a number.
        if isinstance(value, int | float):
            check_number(f"alpha_pattern[{pattern!r}]", value, RANGES["lora_alpha"])


def _check_choices(name: str, value: Any, allowed: Collection[str]) -> None:
    given = as_typed(value)
    if given not in allowed:
        shown = given if given.strip() else repr(given)
        raise UserError(f"{name}={shown} must be {' or '.join(allowed)}.")


def _check_installed(name: str, value: Any, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{name}={as_typed(value)} needs the Python package {package.replace('_', '-')}, which "
            f"is not installed: run `pip install {package.replace('_', '-')}`, or leave it out."
        )
