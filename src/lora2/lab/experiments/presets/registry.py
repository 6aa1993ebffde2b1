"""All presets by name."""

from __future__ import annotations

from lora2.lab.experiments.presets import language, leaderboard, paper, small
from lora2.lab.experiments.presets.preset import Preset

PRESETS: dict[str, Preset] = {
    module.PRESET.name: module.PRESET for module in (small, paper, leaderboard, language)
}
