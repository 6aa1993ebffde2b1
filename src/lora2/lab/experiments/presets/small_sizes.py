"""Rows of one method at several sizes: trained at a size, pruned to it, or cut to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lora2.lab.experiments.presets.small_settings import (
    LORA2,
    SAME_HEAD_SETTINGS,
    variant,
    with_key,
)
from lora2.lab.experiments.setting import Setting

# The default where less than half is left; written out, so that the records stay what they are.
_LATE_WINDOW = {"tinit": 0.5, "tfinal": 0.2}
# LoRA has these parameters at r = 1: 24 of 36 matrices are 384 × 384, and 12 are 384 × 1536.
_OF_RANK_1 = 24 * (384 + 384) + 12 * (384 + 1536)
_CUTS = {rank: round(rank * _OF_RANK_1) for rank in (4, 2, 1, 0.5)}
_LORA, _WHOLE = "lora-r8-same-head", "lora2-unpruned"
# Other tables show the same runs, and a run that is cut has another identity than one that is not.
TO_CUT = {
    setting.key: replace(setting, cuts=tuple(_CUTS.values()))
    for setting in (
        with_key(_LORA, SAME_HEAD_SETTINGS),
        variant(_WHOLE, "LoRA²", "lora2-k8-same-head", target_r=None),
    )
}
"""Rows of the table of sizes whose runs are cut as well, by key."""


def pruned_to(rank: float) -> dict[str, Any]:
    """Return the options by which k = 8 ends at the size of a LoRA of this rank."""
    window = _LATE_WINDOW if rank < LORA2["init_r"] / 2 else {}
    return {"target_r": rank, "budget_unit": "parameters", **window}


def rows_of_sizes() -> Iterator[Setting]:
    """Yield the rows of the table of sizes: trained at a size, pruned to it, or cut to it."""
    lora, lora2 = _LORA, "lora2-k8-same-head"
    rank: float
    yield TO_CUT[lora]
    for rank in (4, 2):
        yield replace(variant(f"lora-r{rank}", "LoRA", lora, k=rank), text=f"r={rank}")
    yield with_key("lora-r1-same-head", SAME_HEAD_SETTINGS)
    for rank, size in _CUTS.items():
        cut = replace(TO_CUT[lora], label="LoRA, cut after training", cut=size)
        yield replace(cut, text=f"r=8 to {rank:g}")
    adalora = "adalora-r8-same-head"
    for rank in (8, 1):
        pruned = variant(f"adalora-{rank}", "AdaLoRA", adalora, target_r=rank)
        yield replace(pruned, text=f"r=12 to {rank}")
    # It is pruned in the window in which LoRA² is where it ends as small.
    pruned = variant("adalora-1-late", "AdaLoRA, pruned late", adalora, target_r=1, **_LATE_WINDOW)
    yield replace(pruned, text="r=12 to 1")
    whole = replace(TO_CUT[_WHOLE], text="k=8, unpruned")
    yield whole
    for rank in _CUTS:
        pruned = variant(f"lora2-to-{rank:g}", "LoRA²", lora2, **pruned_to(rank))
        yield replace(pruned, text=f"k=8 to {rank:g}")
    for rank, size in _CUTS.items():
        yield replace(whole, label="LoRA², cut after training", text=f"k=8 to {rank:g}", cut=size)
