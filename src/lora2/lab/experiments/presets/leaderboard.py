"""Preset `leaderboard`: LoRA² next to PEFT's methods on MiniLM, each at about LoRA's size.

All train about as much as LoRA of rank 8 on the same 36 matrices, 331,776 parameters, where a
method lets one choose; the head's learning rate is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lora2.lab.experiments.presets.measures import DISTANCE, FILE, MEMORY
from lora2.lab.experiments.presets.minilm import MINILM
from lora2.lab.experiments.presets.other_rates import at_multiple
from lora2.lab.experiments.presets.small import NAME as SMALL
from lora2.lab.experiments.presets.small_settings import (
    HEAD_RATE,
    LONGER_WARMUP,
    LORA_SEARCH,
    SAME_HEAD,
    SAME_HEAD_SETTINGS,
    SEEDS_OF_A_TRIAL,
    variant,
)
from lora2.lab.experiments.presets.small_sizes import TO_CUT, pruned_to
from lora2.lab.experiments.presets.task_suite import SettingsTable
from lora2.lab.experiments.presets.tuned_preset import tuned_preset
from lora2.lab.experiments.setting import Search, Setting

NAME = "leaderboard"
_USUAL = "usual"

_SHARED = {setting.key.removesuffix(SAME_HEAD): setting for setting in SAME_HEAD_SETTINGS}


def _searched_here(setting: Setting, key: str) -> Setting:
    """Return a row of `small` with a key of its own: `small` does not take over what is chosen."""
    return replace(setting, key=key, tuned_as=None)


_LORA = _searched_here(TO_CUT["lora-r8-same-head"], "lora-at-rank-8")
_ADALORA = _searched_here(_SHARED["adalora-r8"], "adalora-to-rank-8")
_SORA = _searched_here(_SHARED["sora-r8"], "sora-at-rank-8")
_LORA2 = replace(_searched_here(TO_CUT["lora2-unpruned"], "lora2-unpruned-k8"), text="k=8")
# PEFT's own comparison trains with one rate, LoRA's, but for methods that are named below.
_AS_LORA = LORA_SEARCH
# MiSS has a third of LoRA's rate. At LoRA's it predicts one class of CoLA and does not learn STS-B,
# on every seed tried (docs/results/leaderboard.md).
_MISS = Search(1.67e-5, 1.67e-4, 1.67e-3)
# LoRA+ has a sixth of LoRA's rate, and its other factor 16 times as much. At half of LoRA's, which
# PEFT advises, agreement is not learnt on any seed (docs/results/leaderboard.md).
_LORAPLUS = Search(8.3e-6, 8.3e-5, 8.3e-4)
# HiRA has this rate in PEFT's comparison.
_HIRA = Search(4.5e-4, 4.5e-3, 4.5e-2)
# DeLoRA bounds the norm of its change, so that rates above LoRA's are usual.
_DELORA = Search(1e-4, 1e-3, 1e-2)
# VeRA's paper has rates of 4e-3 to 2e-2 on GLUE (arXiv 2310.11454).
_VERA = Search(1e-3, 1e-2, 1e-1)
# The row of LoRA has this scale.
_RANK_8 = {"r": 8, "lora_alpha": 16}


def _of_peft(
    method: str, label: str, text: str, search: Search, peft_config: dict[str, Any], **options: Any
) -> Setting:
    own = {"peft_config": peft_config, **options, **HEAD_RATE}
    tried = replace(search, seeds=SEEDS_OF_A_TRIAL)
    return Setting(f"{method}-peft", label, method, text, own, tried, by_task=LONGER_WARMUP)


_OF_PEFT = (
    _of_peft("rslora", "rsLoRA", "r=8", _AS_LORA, _RANK_8),
    _of_peft("loraplus", "LoRA+", "r=8", _LORAPLUS, _RANK_8, loraplus_lr_ratio=16),
    _of_peft("dora", "DoRA", "r=8", _AS_LORA, _RANK_8),
    # Its paper scales by 1.
    _of_peft("pissa", "PiSSA", "r=8", _AS_LORA, {"r": 8, "lora_alpha": 8}),
    _of_peft("miss", "MiSS", "r=16", _MISS, {"r": 16}),
    _of_peft("oft", "OFT", "blocks of 32", _AS_LORA, {"oft_block_size": 32}),
    _of_peft("hira", "HiRA", "r=8", _HIRA, {"r": 8}),
    _of_peft("lily", "Lily", "r=12", _AS_LORA, {"r": 12}),
    # The bound on the norm of a change: PEFT's 15 is for wider matrices, and with it agreement is
    # not learnt at any of the three rates (docs/results/leaderboard.md).
    _of_peft("delora", "DeLoRA", "r=8", _DELORA, {"r": 8, "delora_lambda": 1}),
    # Two vectors a matrix: no rank reaches LoRA's size.
    _of_peft("vera", "VeRA", "r=256", _VERA, {"r": 256}),
)  # fmt: skip

TUNED_SETTINGS = (_LORA, *_OF_PEFT, _ADALORA, _SORA, _LORA2)
"""The settings of the preset that have a learning rate of their own."""


def _rows() -> Iterator[Setting]:
    yield from TUNED_SETTINGS
    pruned = variant("lora2-quarter", "LoRA² → 1/4", "lora2-k8-same-head", **pruned_to(2))
    yield replace(pruned, text="k=8 to 2", tuned_as=_LORA2.key)


_TITLE = "methods at the size of LoRA of rank 8, the head's learning rate the same for all"
_TABLE = SettingsTable(
    _TITLE,
    tuple(_rows()),
    note="Trained parameters without the head: 331,776 of LoRA, and as near to it as a method "
    "allows; VeRA, whose size no rank changes much, has a tenth of it. AdaLoRA starts with half as "
    "many again and prunes to it. What a run has lost is seen on texts of no task: the distance "
    "(1 − cosine) of the encoder's mean last hidden states from those before training.",
    measures=(FILE, MEMORY, DISTANCE),
)
_TABLES = {
    NAME: _TABLE,
    _USUAL: _TABLE._replace(
        title=f"{_TITLE}, each method at its usual learning rate",
        settings=tuple(at_multiple(setting, 1) for setting in _rows()),
    ),
}

PRESET = tuned_preset(
    NAME,
    "MiniLM on the same three tasks, LoRA² next to PEFT's methods at LoRA's size",
    MINILM,
    _TABLES,
    TUNED_SETTINGS,
    # Its runs stay the same whatever rates are chosen.
    step_times=_USUAL,
    # Model and tasks are those of `small`, and four rows are rows of its table of sizes, too.
    records=SMALL,
)
