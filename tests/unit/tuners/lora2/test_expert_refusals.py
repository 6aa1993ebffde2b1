"""What adapters of experts refuse, and what they warn of."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lora2 import Lora2Config, UserError
from lora2.tuners.base.loading import load_adapter
from unit.mixtures import MIXTRAL, PARAMETERS, TwoExperts, of_experts, tokens
from unit.models import disturb


def test_one_batch_cannot_have_several_adapters():
    with pytest.raises(UserError, match="adapter_names: one batch cannot have several adapters"):
        MIXTRAL.adapted()(tokens(), adapter_names=["default", "__base__", "default"])


# pytest repeats every warning that a test does not expect: here PEFT's own call of a property.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_pattern_that_no_layer_has_is_reported():
    with pytest.warns(RuntimeWarning, match=r"rank_pattern keys did not match.*\['w9'\]"):
        MIXTRAL.adapted(rank_pattern={"w9": 2, "experts.down_proj": 2})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lora_dropout": 0.1}, r"lora_dropout=0\.1 drops inputs .* write lora_dropout=0, or"),
        ({"target_parameters": "experts"}, "target_parameters='experts' must be a list"),
        ({"target_parameters": ["norm.weight"]}, "has 1 dimensions; name a matrix"),
        ({"layers_to_transform": [9]}, "leave none of them"),
        ({"exclude_modules": ["down_proj", "gate_up_proj", "o_proj"]}, "leave none of them"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        MIXTRAL.adapted(**{"target_modules": [], **fields})


def test_quantized_experts_are_refused():
    base = MIXTRAL.model()
    experts = base.model.layers[0].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.to(torch.float8_e4m3fn), requires_grad=False)
    config = Lora2Config(target_modules=[], target_parameters=["experts.down_proj"])
    with pytest.raises(UserError, match="quantized parameter cannot be adapted"):
        get_peft_model(base, config)


def test_a_weight_of_several_modules_is_not_merged():
    base = MIXTRAL.model()
    first, second = (layer.mlp.experts for layer in base.model.layers)
    second.down_proj = first.down_proj
    config = Lora2Config(target_modules=[], target_parameters=["0.mlp.experts.down_proj"])
    model = get_peft_model(base, config)
    disturb(model)
    with pytest.raises(UserError, match="is the weight of several modules"):
        model.merge_adapter()


def test_inputs_of_an_experts_matrix_cannot_be_dropped_later():
    layer = next(iter(of_experts(MIXTRAL.adapted()).values()))
    with pytest.raises(
        UserError, match=r"lora_dropout=0\.5 .* gate_up_proj is added .* or target_para"
    ):
        layer.add_dropout("default", 0.5)


def with_experts(number: int) -> TwoExperts:
    model = TwoExperts()
    model.experts.weight = nn.Parameter(torch.randn(number, 4, 4))
    return model


@pytest.mark.parametrize("number", [1, 3])
def test_an_adapter_of_another_number_of_experts_is_refused(number: int, tmp_path: Path):
    config = Lora2Config(target_parameters=["experts.weight"], rank_pattern={"weight": 1})
    get_peft_model(with_experts(2), config).save_pretrained(tmp_path)
    said = rf"^model: the adapter is of 2 experts in .*experts.weight, and this model has {number};"
    for load in (PeftModel.from_pretrained, load_adapter):
        with pytest.raises(UserError, match=said):
            load(with_experts(number), tmp_path)
        assert load(with_experts(2), tmp_path)


# pytest.warns gives transformers' own warning again, as one of this file.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_one_of_several_parameters_that_matches_nothing_is_named():
    with pytest.warns(
        RuntimeWarning, match=r"^target_parameters=\['experts.w9'\] were set"
    ) as said:
        adapted = MIXTRAL.adapted(target_parameters=[*PARAMETERS, "experts.w9"])
    assert len([each for each in said if "were set" in str(each.message)]) == 1
    # A second adapter finds the parameters in the layers of the first, and warns of nothing.
    adapted.add_adapter("other", Lora2Config(target_parameters=PARAMETERS, target_modules=[]))
