"""Every field of every config refuses values of another type in one sentence that names both."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftConfig, get_peft_model

from lora2 import Lora2Config, UserError
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.loading import read_adapter_config
from lora2.tuners.bottleneck import BottleneckConfig
from lora2.tuners.sora import SoraConfig
from unit.tiny_transformers import tiny_llama

CONFIGS = (Lora2Config, SoraConfig, BottleneckConfig)
FIELDS = [
    (kind, each.name)
    for kind in CONFIGS
    for each in dataclasses.fields(kind)
    if each.init and each.name not in ("peft_type", "auto_mapping")
]
# Whole numbers that no float holds: math.isfinite raises an OverflowError for them.
HUGE = 10**400
# Compared, it is no truth value.
PAIR = np.array([1, 2])
# No field takes any of these.
WRONG = [[[1]], {"a": [[1]]}, math.nan, math.inf, HUGE, -HUGE, [None], [HUGE, "a"], object(), PAIR]
JSON_VALUES = [[[1]], {"a": [[1]]}, HUGE, [None]]
every_field = pytest.mark.parametrize(
    ("kind", "name"), FIELDS, ids=[f"{kind.__name__}-{name}" for kind, name in FIELDS]
)


@every_field
def test_values_of_another_type_are_refused(kind: type[TargetConfig], name: str) -> None:
    for value in WRONG:
        with pytest.raises(UserError, match=rf"^{name}(\[.*\])?(=|: )") as found:
            kind(**{name: value})
        assert len(str(found.value)) < 400
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_array_is_no_kind_of_adapter(kind: type[TargetConfig]) -> None:
    with pytest.raises(
        UserError, match=r"^peft_type=array\(\[1, 2\]\) must be one of PROMPT_TUNING"
    ):
        kind(peft_type=PAIR)


@pytest.mark.parametrize("value", ["4", [4], True, {"a": 4}, ""])
@pytest.mark.parametrize("kind", CONFIGS)
def test_numbers_are_no_texts_and_no_booleans(kind: type[TargetConfig], value: Any) -> None:
    numbers = [e.name for e in dataclasses.fields(kind) if str(e.type).startswith(("int", "float"))]
    assert len(numbers) >= 2
    for name in numbers:
        with pytest.raises(UserError, match=rf"^{name}="):
            kind(**{name: value})


@pytest.mark.parametrize("value", [1e-320, 1e39, 10**39])
@pytest.mark.parametrize(
    ("kind", "name", "others"),
    [
        (Lora2Config, "lora_alpha", {}),
        (Lora2Config, "init_std", {}),
        (Lora2Config, "orth_reg_weight", {}),
        (SoraConfig, "lora_alpha", {}),
        (SoraConfig, "threshold", {}),
        (SoraConfig, "max_threshold", {"threshold": 0, "threshold_schedule": "linear"}),
        (BottleneckConfig, "init_std", {}),
    ],
)
def test_a_number_that_float32_cannot_hold_is_refused(
    kind: type[TargetConfig], name: str, others: dict[str, Any], value: float
) -> None:
    with pytest.raises(UserError, match=rf"^{name}=\S+ must be .* a number that float32 can hold"):
        kind(**others, **{name: value})


@pytest.mark.parametrize(
    ("kind", "name"), [(Lora2Config, "orth_reg_weight"), (SoraConfig, "threshold")]
)
def test_zero_is_held_where_it_means_none(kind: type[TargetConfig], name: str) -> None:
    assert getattr(kind(**{name: 0}), name) == 0


@every_field
def test_a_file_with_such_a_value_is_named(
    kind: type[TargetConfig], name: str, tmp_path: Path
) -> None:
    kind(task_type="CAUSAL_LM", target_modules=["q_proj"]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    content = json.loads(file.read_text())
    for value in JSON_VALUES:
        file.write_text(json.dumps(content | {name: value}))
        with pytest.raises(UserError, match=rf"adapter_config\.json: {name}"):
            read_adapter_config(tmp_path)
        with pytest.raises(UserError, match=rf"^{name}"):
            PeftConfig.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_takes_is_taken(kind: type[TargetConfig]) -> None:
    for names in (["q_proj"], ("q_proj",), {"q_proj"}):
        assert kind(target_modules=names, exclude_modules=names).target_modules == {"q_proj"}
    assert kind(modules_to_save=("head",), layers_to_transform=(0, 1)).modules_to_save == ("head",)
    if kind is not BottleneckConfig:
        assert kind(rank_pattern=None, lora_alpha=8).rank_pattern == {}


NAMES = ["a.b", "..", "", "train", "keys", "modules", "_modules", "__base__", "/tmp/a", "a\0b"]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Adapter name '' should not be contained:UserWarning")
def test_names_that_an_adapter_cannot_have_are_refused(kind: type[TargetConfig], name: str) -> None:
    def config() -> TargetConfig:
        return kind(task_type="CAUSAL_LM", target_modules=["q_proj"])

    with pytest.raises(UserError, match=r"^adapter_name=.*: write a name of letters"):
        get_peft_model(tiny_llama(), config(), adapter_name=name)
    model = get_peft_model(tiny_llama(), config())
    with pytest.raises(UserError, match=r"^adapter_name="):
        model.add_adapter(name, config())
    assert list(model.peft_config) == ["default"]
    assert model.add_adapter("other", config()) is None
