"""The options that LoRA² shares with LoRA, AdaLoRA and SoRA, checked by its config."""

from __future__ import annotations

import dataclasses
from typing import Any

from lora2.errors import UserError
from lora2.training.methods.method import Options
from lora2.training.methods.wrapping import one_word
from lora2.tuners.lora2.config import Lora2Config

_FIELDS = frozenset(f.name for f in dataclasses.fields(Lora2Config))


def lora2_config(options: Options, **fields: Any) -> Lora2Config:
    """Return the config of the options that it has fields for, with some of them replaced.

    Raises:
        UserError: an invalid value.
    """
    chosen = {name: value for name, value in options.items() if name in _FIELDS}
    return Lora2Config(**one_word(chosen) | fields)


def shared_config(options: Options, label: str) -> Lora2Config:
    """Return what another method shares with LoRA².

    Raises:
        UserError: an invalid value, or a size of single matrices.
    """
    for name in ("k_pattern", "rank_pattern", "alpha_pattern"):
        if options.get(name):
            what = "lora_alpha" if name == "alpha_pattern" else "rank"
            raise UserError(
                f"{name}={options[name]}: {label} has one {what} for all matrices; leave it out, "
                "or take --method lora2."
            )
    return lora2_config(options)
