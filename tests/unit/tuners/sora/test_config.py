"""What SoRA's configuration refuses, and how it comes back."""

from pathlib import Path
from typing import Any

import pytest

from lora2 import SoraConfig, UserError
from unit.sora import SCHEDULE, config

BAD = {
    "r": ({"r": 0}, "r=0 must be a whole number of at least 1"),
    "float_r": ({"r": 4.0}, "r=4.0 must be a whole number of at least 1"),
    "pattern": ({"rank_pattern": {"lin0": -1}}, r"rank_pattern\['lin0'\]=-1 must be"),
    "no_number": ({"threshold": float("nan")}, "threshold=nan must be a finite number"),
    "fractional_r": ({"r": 2.5}, "r=2.5 must be a whole number of at least 1"),
    "lora_alpha": ({"lora_alpha": 0}, "lora_alpha=0 must be above 0"),
    "lora_dropout": ({"lora_dropout": 1.0}, r"lora_dropout=1.0 must be in \[0, 1\)"),
    "threshold": ({"threshold": -1e-4}, "threshold=-0.0001 must not be negative"),
    "schedule": ({"threshold_schedule": "cubic"}, "threshold_schedule='cubic' is not known"),
    "stages": ({"threshold_stages": 0}, "threshold_stages=0 must be a whole number of at least 1"),
    "no_maximum": ({"threshold_schedule": "linear"}, "max_threshold=None must be given"),
    "low_maximum": (
        {"threshold_schedule": "linear", "threshold": 0.2, "max_threshold": 0.1},
        "max_threshold=0.1 must be given, and not below threshold=0.2",
    ),
    "logarithm": (
        {"threshold_schedule": "exp_linear", "threshold": 0, "max_threshold": 0.1},
        "threshold=0 has no logarithm",
    ),
}


@pytest.mark.parametrize(("fields", "said"), BAD.values(), ids=BAD)
def test_a_value_that_is_invalid_is_one_sentence(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        SoraConfig(**fields)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_the_config_comes_back_as_it_was(tmp_path: Path) -> None:
    written = config(**SCHEDULE, rank_pattern={"^lin0": 1})
    written.save_pretrained(tmp_path)
    read = SoraConfig.from_pretrained(tmp_path)
    for name in ("r", "lora_alpha", *SCHEDULE, "rank_pattern", "target_modules"):
        assert getattr(read, name) == getattr(written, name), name
