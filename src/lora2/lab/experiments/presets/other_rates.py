"""Rows at a third and three times of a method's usual learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lora2.lab.experiments.setting import Setting, as_tried

_FACTORS = {"a third of the usual rate": 1 / 3, "the usual rate": 1, "three times": 3}


def at_other_rates(settings: Iterable[Setting]) -> Iterator[Setting]:
    """Yield each setting at a third of its usual learning rate, at that rate and at three times it.

    A setting that is cut is cut at its usual rate alone: other tables show those runs.
    """
    for setting in settings:
        for words, factor in _FACTORS.items():
            cuts = setting.cuts if factor == 1 else ()
            text = f"{setting.text}, {words}"
            yield replace(at_multiple(setting, factor), text=text, cuts=cuts)


def at_multiple(setting: Setting, factor: float) -> Setting:
    """Return a setting at a multiple of its usual learning rate, whatever was tuned."""
    return replace(setting, rate=as_tried(factor * setting.search.first))
