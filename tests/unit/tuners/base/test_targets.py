"""Default target modules of every model type that PEFT's LoRA knows, in real architectures."""

import pytest
import torch
from peft import get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_LORA
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from lora2 import Lora2Config
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES

# Of transformers 5 none is a model type: their code is in hub repositories.
CODE_ON_THE_HUB = {"chatglm", "RefinedWeb", "RefinedWebModel", "btlm", "rwkv7"}
# Their layers are of several kinds, and two of them are not of all.
OF_SEVERAL_KINDS = {"gemma4_text", "gemma4"}
_LAYERS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "encoder_layers",
    "decoder_layers",
    "n_layers",
)


def test_every_model_type_that_lora_has_defaults_for_has_some_here() -> None:
    missing = OF_LORA.keys() - DEFAULT_TARGET_MODULES.keys()
    assert missing - CODE_ON_THE_HUB == set()


@pytest.mark.parametrize("model_type", sorted(DEFAULT_TARGET_MODULES))
def test_each_default_name_is_in_the_architecture(model_type: str) -> None:
    try:
        config = AutoConfig.for_model(model_type)
    except ValueError:
        pytest.skip(f"this transformers has no {model_type}")
    parts = [part for part in vars(config).values() if isinstance(part, PreTrainedConfig)]
    for each in () if model_type in OF_SEVERAL_KINDS else (config, *parts):
        for field in _LAYERS:
            if isinstance(getattr(each, field, None), int):
                setattr(each, field, 2)
    with torch.device("meta"):
        try:
            base = AutoModel.from_config(config)
        except AssertionError:
            pytest.skip(f"this transformers builds no {model_type} of its default config")
        model = get_peft_model(base, Lora2Config(k=1, init_r=1))
    adapted = [name for name, p in model.named_parameters() if name.endswith("lora2_u.default")]
    assert adapted
    # Names that only some versions of an architecture have.
    of_some = {
        "t5": {"wi", "wi_0", "wi_1"}, "mt5": {"wi"}, "umt5": {"wi", "wi_0", "wi_1"},
        "deepseek_v2": {"q_proj"}, "deepseek_v3": {"q_proj"},
        "blip-2": {"q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"},
        "dinov2": {"q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "output.dense"},
    }.get(model_type, set())  # fmt: skip
    names = DEFAULT_TARGET_MODULES[model_type]
    for target in set() if isinstance(names, str) else set(names) - of_some:
        assert any(f".{target}.lora2_u" in name for name in adapted), target
