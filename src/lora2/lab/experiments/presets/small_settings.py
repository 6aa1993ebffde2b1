"""The methods of the preset `small`: with what each is trained, and where its rate is searched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from lora2.lab.experiments.setting import Search, Setting

# The window of AdaLoRA's and LoRA²'s released scripts for CoLA, as shares of their 6,700 steps.
_SCRIPTS_WINDOW = {"tinit": 0.12, "tfinal": 0.52, "deltaT": 10}
_PAPER_FORM = {
    **_SCRIPTS_WINDOW, "init_r": 8, "target_r": 4, "lora_alpha": 16,
    "orthogonality": "penalty", "orth_reg_weight": 0.1,
}  # fmt: skip
# Half of the singular values are pruned, and all else is as by default.
LORA2 = {"init_r": 8, "target_r": 4, "lora_alpha": 4}
# SoRA's released script has this ξ.
_SORA = {"lora_alpha": 16, "threshold": 3e-4}

# The search covers a decade on each side of a method's usual learning rate.
_SEARCH = Search(1e-4, 1e-3, 1e-2)
LORA_SEARCH = Search(5e-5, 5e-4, 5e-3)
# From Gaussian factors of 0.02 with Λ = 0, a first step of Adam moves the weight fifty times less
# than LoRA's (AdaLoRA, r = 8), or thousands of times (LoRA²'s literal form).
_SLOW_SEARCH = Search(1e-3, 1e-2, 1e-1)

SETTINGS: tuple[Setting, ...] = (
    Setting("head", "head alone", "head", "", {}, Search(3e-4, 3e-3, 3e-2)),
    Setting("bitfit", "BitFit", "bitfit", "", {}, _SEARCH),
    Setting(
        "full", "full fine-tuning", "full", "", {}, Search(1e-5, 1e-4, 1e-3)
    ),
    Setting(
        "adalora-r1", "AdaLoRA", "adalora", "r=1",
        {**_SCRIPTS_WINDOW, "init_r": 2, "target_r": 1, "lora_alpha": 16, "orth_reg_weight": 0.1},
        _SLOW_SEARCH,
    ),
    Setting("lora-r1", "LoRA", "lora", "r=1", {"k": 1, "lora_alpha": 16}, LORA_SEARCH),
    Setting("sora-r1", "SoRA", "sora", "r=1", {"k": 1, **_SORA}, _SEARCH),
    Setting(
        "lora2-paper-k1", "LoRA², literal", "lora2", "k=1", {"k": 1, **_PAPER_FORM}, _SLOW_SEARCH
    ),
    Setting(
        "lora2-k1", "LoRA²", "lora2", "k=1", {"k": 1, **LORA2}, _SEARCH,
    ),
    Setting(
        "adalora-r8", "AdaLoRA", "adalora", "r=8",
        {**_SCRIPTS_WINDOW, "init_r": 12, "target_r": 8, "lora_alpha": 16, "orth_reg_weight": 0.1},
        _SLOW_SEARCH,
    ),
    Setting("lora-r8", "LoRA", "lora", "r=8", {"k": 8, "lora_alpha": 16}, LORA_SEARCH),
    Setting("sora-r8", "SoRA", "sora", "r=8", {"k": 8, **_SORA}, _SEARCH),
    Setting(
        "lora2-paper-k8", "LoRA², literal", "lora2", "k=8", {"k": 8, **_PAPER_FORM}, _SLOW_SEARCH
    ),
    Setting(
        "lora2-k8", "LoRA²", "lora2", "k=8", {"k": 8, **LORA2}, _SEARCH,
    ),
)  # fmt: skip


# The rate of the head is the adapter's in the tables of the paper, as in its scripts. Where sizes
# are compared it is one for all: LoRA²'s usual rate is twice LoRA's.
HEAD_RATE = {"head_learning_rate": 1e-3}
# 72 steps, as many as CoLA has. After 22, whether a method leaves the mean of the labels within the
# 360 steps of STS-B is close to chance (docs/notebook/experiments.md).
LONGER_WARMUP = {"stsb": {"warmup_steps": 0.2}}
# One seed has chosen rates for CoLA and STS-B that do badly on others.
SEEDS_OF_A_TRIAL = 2
SAME_HEAD = "-same-head"
"""The keys of settings with that rate of the head end in it."""
SAME_HEAD_SETTINGS = tuple(
    replace(
        setting,
        key=setting.key + SAME_HEAD,
        options={**setting.options, **HEAD_RATE},
        search=replace(setting.search, seeds=SEEDS_OF_A_TRIAL),
        by_task=LONGER_WARMUP,
    )
    for setting in SETTINGS
    if setting.key.partition("-")[0] in ("lora", "adalora", "sora", "lora2")
    and not setting.key.startswith("lora2-paper")
)
TUNED_SETTINGS = (*SETTINGS, *SAME_HEAD_SETTINGS)
"""All settings that `lora2 tune` knows."""


def with_key(key: str, settings: Iterable[Setting]) -> Setting:
    """Return the one of these settings that has the key."""
    return next(setting for setting in settings if setting.key == key)


def variant(key: str, label: str, of: str, **options: Any) -> Setting:
    """Return a setting with other options, at the learning rate of the one it is made from."""
    base = with_key(of, TUNED_SETTINGS)
    return replace(base, key=key, label=label, options={**base.options, **options}, tuned_as=of)
