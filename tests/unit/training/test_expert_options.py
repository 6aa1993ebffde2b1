"""Weights of experts in the options of `lora2 train` and `lora2 params`."""

import pytest
from peft import get_peft_model

from lora2 import Lora2Config, UserError
from lora2.training.checks.named_modules import check_named_modules
from lora2.training.methods import lora
from lora2.training.methods.registry import METHODS
from lora2.training.options.arguments import RunSettings
from lora2.tuners.lora2.layer import lora2_layers
from unit.mixtures import DEEPSEEK, EXPERTS, GPT_OSS, MIXTRAL, PARAMETERS

METHOD = METHODS["lora2"]


def options_of(**given) -> dict:
    return RunSettings.from_options({"k": 4, "init_r": 3, **given}).adapter


CHOICES = [
    (MIXTRAL, {"target_modules": ["all-linear"]}),
    (MIXTRAL, {"target_modules": ["w1", "w2", "w3"]}),
    (DEEPSEEK, {"target_modules": ["o_proj", "gate_proj", "up_proj", "down_proj"]}),
    (GPT_OSS, {"target_parameters": PARAMETERS}),
    (MIXTRAL, {"target_modules": ["o_proj"], "target_parameters": PARAMETERS[:1]}),
]
every_choice = pytest.mark.parametrize(
    ("mixture", "given"),
    CHOICES,
    ids=lambda value: value.name if hasattr(value, "name") else "-".join(value),
)


@every_choice
def test_params_counts_what_is_trained(mixture, given):
    # Without the head, as `lora2 params` counts.
    model = mixture.model().base_model
    options = options_of(**given)
    check_named_modules(model, METHOD, options)
    targets = given.get("target_modules")
    fields = given | {"target_modules": targets[0] if targets == ["all-linear"] else targets}
    adapted = get_peft_model(mixture.model(), Lora2Config(k=4, init_r=3, **fields))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert METHOD.count(model, options) == trained


@every_choice
# PEFT's, of the patterns that it makes itself for fused matrices.
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
def test_params_counts_what_lora_trains(mixture, given):
    options = options_of(**given)
    model = mixture.model().base_model
    adapted = get_peft_model(mixture.model().base_model, lora.config(model, options))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert METHODS["lora"].count(model, options) == trained


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"target_modules": ["o_proj", "w9"]}, "target_modules=w9 chooses no module"),
        ({"target_parameters": ["experts.w9"]}, "target_parameters=experts.w9 chooses no param"),
        ({"rank_pattern": {"down_proj": 2}}, "rank_pattern={'down_proj': 2} chooses no module"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_names_that_choose_nothing_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        check_named_modules(MIXTRAL.model(), METHOD, options_of(**given))


def test_a_pattern_may_name_a_parameter_or_an_expert():
    pattern = {"experts.down_proj": 2, "gate_up_proj.3": 1}
    model = MIXTRAL.model()
    given = options_of(target_modules=["all-linear"], rank_pattern=pattern)
    check_named_modules(model, METHOD, given)
    config = Lora2Config(k=4, init_r=3, target_modules="all-linear", rank_pattern=pattern)
    adapted = get_peft_model(model, config)
    sizes = {
        name.partition("experts.matrices.")[2]: layer.sizes_of("default")[1]
        for name, layer in lora2_layers(adapted, "default").items()
        if "experts.matrices." in name
    }
    expected = {f"gate_up_proj.{index}": 1 if index == 3 else 3 for index in range(EXPERTS)}
    assert sizes == expected | {f"down_proj.{index}": 2 for index in range(EXPERTS)}
