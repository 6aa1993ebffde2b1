"""Fields of a LoRA or AdaLoRA snippet that a config of this package does not have."""

import dataclasses
import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
from peft import AdaLoraConfig, LoraConfig, PeftConfig

from lora2 import BottleneckConfig, Lora2Config, SoraConfig, UserError

CONFIGS = (Lora2Config, SoraConfig, BottleneckConfig)
OTHERS = sorted({each.name for c in (LoraConfig, AdaLoraConfig) for each in dataclasses.fields(c)})


def missing(config: type) -> list[str]:
    return sorted(set(OTHERS) - {each.name for each in dataclasses.fields(config)})


@pytest.mark.parametrize(
    ("config", "field"), [(config, field) for config in CONFIGS for field in missing(config)]
)
def test_every_field_of_lora_and_adalora_gets_a_sentence(config: type, field: str) -> None:
    sentence = rf"{config.__name__} got an unexpected keyword argument, {field}=8: .{{15,}}\.$"
    with pytest.raises(UserError, match=sentence):
        config(**{field: 8})


@pytest.mark.parametrize(
    ("config", "given", "sentence"),
    [
        (Lora2Config, {"lora_r": 8}, "lora_r=8: the rank of the change is called k here"),
        (Lora2Config, {"r": 8}, "r=8: the rank of the change is called k here, and init_r is"),
        (Lora2Config, {"bias": "none"}, "bias='none': no bias is trained"),
        (Lora2Config, {"use_dora": True}, "use_dora=True: there is no form of it with DoRA"),
        (Lora2Config, {"use_rslora": True}, "multiply lora_alpha by the square root of k"),
        (Lora2Config, {"init_lora_weights": "pissa"}, "it is called init_weights here"),
        (Lora2Config, {"fan_in_fan_out": True}, "found out from its layer, so leave it out"),
        (SoraConfig, {"target_parameters": ["w"]}, "name modules in target_modules"),
        (Lora2Config, {"r": 8, "bias": "none"}, "r=8: .*; bias='none': "),
        (Lora2Config, {"lora_dropuot": 0.1}, "no such field, but there is lora_dropout"),
        (Lora2Config, {"colour": "red"}, "colour='red': there is no such field, so leave it out"),
        (SoraConfig, {"k": 8}, "the rank that a matrix starts with is called r here"),
        (SoraConfig, {"target_r": 4}, "there is no budget, so choose threshold"),
        (BottleneckConfig, {"r": 8}, "the width is called bottleneck_size here"),
        (BottleneckConfig, {"lora_alpha": 8}, "the change is not scaled, so leave it out"),
    ],
)
def test_the_sentence_says_what_to_write(
    config: type, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        config(**given)
    # As an unknown argument of anything else is.
    with pytest.raises(TypeError, match="got an unexpected keyword argument"):
        config(**given)


@pytest.mark.parametrize("config", CONFIGS)
def test_file_of_a_later_version_is_read_with_pefts_warning(config: type, tmp_path: Path) -> None:
    config(target_modules=["lin0"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of_the_future": 1, "r_of_it": 2}))
    for reader in (PeftConfig, config):
        with pytest.warns(UserWarning, match=r"\['of_the_future', 'r_of_it'\] for class"):
            read = reader.from_pretrained(tmp_path)
        assert type(read) is config
        assert read.target_modules == {"lin0"}


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_are_dataclasses_as_before(config: type) -> None:
    value = config(target_modules=["lin0"])
    assert pickle.loads(pickle.dumps(value)) == dataclasses.replace(value) == value
    names = [each.name for each in dataclasses.fields(config)]
    assert list(inspect.signature(config).parameters) == names
    assert "fields_of_others" not in value.to_dict()
    with pytest.raises(UserError, match="unexpected keyword argument, bias=1"):
        dataclasses.replace(value, bias=1)
    with pytest.raises(UserError, match="unexpected keyword argument, bias=1"):
        peft.get_peft_config({"peft_type": value.peft_type, "bias": 1})
