"""Which weights of experts target_modules names: what PEFT's LoRA takes it for, and no silence."""

import warnings
from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.error import NoMatchingPeftModuleError

from lora2 import Lora2Config, UserError
from lora2.tuners.base.layers.experts import parameter_of
from unit.mixtures import DEEPSEEK, GPT_OSS, MIXTRAL, MIXTURES, QWEN, TwoExperts, logits
from unit.models import difference, layers_of

NAMED = [mixture for mixture in MIXTURES if mixture.old_names]

# pytest repeats every warning that a test does not expect: here PEFT's own call of a property.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def parameters_by_lora(model: PeftModel) -> set[str]:
    """The full names of the parameters that PEFT's LoRA adapts."""
    return {
        f"{name.replace('.base_layer', '')}.{module.parameter_name}"
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and hasattr(module, "parameter_name")
    }


@pytest.mark.parametrize("targets", ["all-linear", "names", "expression"])
@pytest.mark.parametrize("mixture", NAMED, ids=lambda mixture: mixture.name)
def test_names_of_experts_choose_the_parameters_that_loras_do(mixture, targets):
    chosen = {
        "all-linear": "all-linear",
        "names": ["o_proj", *mixture.old_names],
        "expression": rf".*\.(o_proj|{'|'.join(mixture.old_names)})",
    }[targets]
    with warnings.catch_warnings():
        # PEFT compares patterns with modules alone.
        warnings.filterwarnings("ignore", "The following", RuntimeWarning)
        lora = get_peft_model(mixture.model(), LoraConfig(target_modules=chosen))
    model = mixture.adapted(target_modules=chosen, target_parameters=None)
    found = {parameter_of(name) for name in layers_of(model)} - {None}
    assert found == parameters_by_lora(lora)
    # Modules, which PEFT's LoRA leaves out where their name is that of an expert's matrix.
    modules = {name for name, module in lora.named_modules() if isinstance(module, LoraLayer)}
    modules = {name for name in modules if not hasattr(lora.get_submodule(name), "parameter_name")}
    assert modules <= {name for name in layers_of(model) if parameter_of(name) is None}


@pytest.mark.parametrize("mixture", [QWEN, DEEPSEEK], ids=lambda mixture: mixture.name)
def test_dense_layers_of_the_same_name_are_adapted_too(mixture):
    model = mixture.adapted(target_modules=list(mixture.old_names), target_parameters=None)
    assert any(name.endswith("layers.0.mlp.gate_proj") for name in layers_of(model))


def test_an_expression_may_name_the_router_which_is_no_linear_layer():
    model = MIXTRAL.adapted(target_modules=r".*\.(o_proj|gate)", target_parameters=None)
    found = {parameter_of(name) for name in layers_of(model)} - {None}
    assert all(name.endswith("mlp.gate.weight") for name in found)
    assert len(found) == MIXTRAL.layers


def test_a_loaded_adapter_has_the_parameters_that_it_was_saved_with(tmp_path: Path):
    targets = list(DEEPSEEK.old_names)
    for fields in ({"target_parameters": None}, {"target_parameters": []}):
        model = DEEPSEEK.adapted(target_modules=targets, **fields)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(DEEPSEEK.model(), tmp_path).eval()
        assert layers_of(loaded).keys() == layers_of(model).keys()
        assert difference(logits(loaded), logits(model)) < 1e-6


def test_a_saved_adapter_without_the_field_has_no_parameters():
    """As versions before it wrote them, of which the defaults of DeepSeek name dense layers."""
    config = Lora2Config(target_modules=["gate_proj", "up_proj", "down_proj"], inference_mode=True)
    model = get_peft_model(DEEPSEEK.model(), config)
    assert not any(map(parameter_of, layers_of(model)))


def test_default_targets_leave_experts_alone():
    model = MIXTRAL.adapted(target_modules=None, target_parameters=None)
    assert not any(map(parameter_of, layers_of(model)))


def test_one_of_two_fused_matrices_is_refused():
    with pytest.raises(UserError, match=r"target_modules: .*w1 without also targeting w3"):
        MIXTRAL.adapted(target_modules=["q_proj", "w1"], target_parameters=None)


@pytest.mark.parametrize(
    ("mixture", "targets", "named"),
    [
        # PEFT knows no names of modules for the experts of gpt-oss.
        (GPT_OSS, "all-linear", r"'experts\.down_proj', 'experts\.gate_up_proj'"),
        (GPT_OSS, ["q_proj", "down_proj"], r"'experts\.down_proj'"),
        (MIXTRAL, ["q_proj", "gate_up_proj"], r"'experts\.gate_up_proj'"),
    ],
    ids=["all-linear", "down_proj", "gate_up_proj"],
)
def test_parameters_that_stay_as_they_are_are_named(mixture, targets, named):
    with pytest.warns(UserWarning, match=rf"write target_parameters=\[{named}\]"):
        mixture.adapted(target_modules=targets, target_parameters=None)


def test_an_empty_list_leaves_experts_alone_without_a_warning():
    model = GPT_OSS.adapted(target_modules="all-linear", target_parameters=[])
    assert not any(map(parameter_of, layers_of(model)))


def test_names_that_match_nothing_are_reported_as_peft_does():
    with pytest.warns(RuntimeWarning, match="were set but no parameter was matched"):
        MIXTRAL.adapted(target_parameters=["experts.w9"])
    with (
        pytest.warns(UserWarning, match="write target_parameters"),
        pytest.raises(NoMatchingPeftModuleError),
    ):
        MIXTRAL.adapted(target_modules=["gate_up_proj"], target_parameters=None)


def test_parameters_alone_need_no_target_modules():
    model = get_peft_model(TwoExperts(), Lora2Config(target_parameters=["experts.weight"]))
    assert len(layers_of(model)) == 2
