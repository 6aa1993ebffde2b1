"""One contract for all methods of `lora2 train`: start, what moves, counts, saving, merging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    ConvNextConfig,
    ConvNextForImageClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from lora2 import Lora2Config, UserError
from lora2.training.base_models.models import BaseModel, load_base_model
from lora2.training.methods.method import Method
from lora2.training.methods.registry import METHODS
from lora2.training.methods.whole_modules import HEADS
from lora2.training.methods.wrapping import wrap
from lora2.training.options.arguments import RunSettings
from lora2.training.options.run_arguments import MethodName
from lora2.training.parameter_counts import count_parameters
from lora2.tuners.base.loading import load_adapter
from lora2.tuners.lora2.layer import lora2_layers
from unit import method_case
from unit.method_case import Trained
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_deberta, tiny_llama_classifier

STEPS = 3

# Smaller than any default, and a schedule that prunes within three steps.
OPTIONS: dict[str, Any] = {
    "k": 2,
    "init_r": 4,
    "target_r": 2,
    "tinit": 0,
    "tfinal": 1,
    "deltaT": 1,
    "threshold": 0.1,
    "bottleneck_size": 3,
    "virtual_tokens": 3,
}


@dataclass(frozen=True)
class Architecture:
    """A tiny classifier: how it is made, and which of its modules the checkpoint lacks."""

    name: str
    make: Callable[[], PreTrainedModel]
    new_modules: tuple[str, ...]


ARCHITECTURES = (
    Architecture("bert", lambda: tiny_bert(max_position_embeddings=32), ("classifier",)),
    # As microsoft/deberta-v3-base comes.
    Architecture("deberta", tiny_deberta, ("classifier", "pooler.dense")),
    Architecture("llama", tiny_llama_classifier, ("score",)),
)


def unsuited(method: str, architecture: Architecture) -> bool:
    """Whether the two do not go together, see the refusals below."""
    return architecture.name == "llama" and method in ("bitfit", "prompt")


# PEFT says what those of its registry do: test_peft_methods.py.
OWN = {name: method for name, method in METHODS.items() if not method.from_peft}
CASES = [
    (METHODS[method], architecture)
    for method in OWN
    for architecture in ARCHITECTURES
    if not unsuited(method, architecture)
]
every_method = pytest.mark.parametrize("method", OWN.values(), ids=OWN)
every_case = pytest.mark.parametrize(
    ("method", "architecture"),
    CASES,
    ids=[f"{method.name}-{architecture.name}" for method, architecture in CASES],
)


def batch(size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Rows of which every other is padded."""
    rows = bert_batch(size, seed=seed)
    rows["input_ids"][::2, -2:] = 0
    rows["attention_mask"][::2, -2:] = 0
    return rows


def logits(model: nn.Module) -> Tensor:
    return method_case.logits(model, batch())


def options_of(method: Method, **changed: Any) -> Mapping[str, Any]:
    return RunSettings.from_options({**method.defaults, **OPTIONS, **changed}).adapter


def built(method: Method, architecture: Architecture, **changed: Any) -> nn.Module:
    base = BaseModel(architecture.make(), architecture.new_modules)
    torch.manual_seed(1)
    return method.build(base, options_of(method, **changed), STEPS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """Trains each method on each architecture once; do not change the model."""

    @cache
    def of(name: str, architecture: Architecture) -> Trained:
        method, folder = METHODS[name], tmp_path_factory.mktemp(name)
        model = built(method, architecture)
        return method_case.train(method, model, folder, batch(16), max_steps=STEPS)

    return lambda method, architecture: of(method.name, architecture)


def is_new(name: str, architecture: Architecture) -> bool:
    return name.startswith(tuple(f"{module}." for module in architecture.new_modules))


# What the registry says


@every_method
def test_every_method_says_what_it_is(method: Method) -> None:
    assert METHODS[method.name] is method
    assert method.label
    assert method.trains
    assert method.formula
    assert method.start in ("same", "near", "other")
    # Both are commonplaces that nobody published.
    assert bool(method.source) == (method.name not in ("full", "head"))


def test_the_command_line_offers_all_methods_and_no_others() -> None:
    assert set(get_args(MethodName)) == set(METHODS)


@every_method
def test_defaults_are_options_of_a_run(method: Method) -> None:
    options = RunSettings.from_options(method.defaults).to_options()
    assert method.defaults.items() <= options.items()


# The start


@every_case
def test_the_start_is_what_the_method_promises(method: Method, architecture: Architecture) -> None:
    expected = logits(architecture.make())
    found = logits(built(method, architecture))
    if method.start == "same":
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    else:
        assert not torch.allclose(found, expected, atol=1e-6, rtol=0)
    if method.start == "near":
        torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


# What is trained

# What a method changes of the tensors that the pretrained model has.
CHANGES: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "bitfit": lambda name: name.endswith("bias"),
}


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors of the pretrained model in a model, by their names in it."""
    tensors = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        for prefix in ("base_model.model.", "base_model."):
            if isinstance(model, PeftModel) and name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        tensors[name] = tensor.detach().clone()
    return tensors


@pytest.mark.slow
@every_case
def test_only_what_the_method_trains_moves(
    method: Method, architecture: Architecture, trained: Callable[..., Trained]
) -> None:
    before = base_tensors(architecture.make())
    after = base_tensors(trained(method, architecture).model)
    assert before.keys() <= after.keys()
    changes = CHANGES.get(method.name, lambda name: False)
    moved = {
        name
        for name, tensor in before.items()
        if not is_new(name, architecture) and not torch.equal(after[name], tensor)
    }
    assert all(changes(name) for name in moved)
    assert bool(moved) == (method.name in CHANGES)


@pytest.mark.slow
@every_case
def test_head_and_what_lacks_weights_are_trained_with_every_method(
    method: Method, architecture: Architecture, trained: Callable[..., Trained]
) -> None:
    before = base_tensors(architecture.make())
    model = trained(method, architecture).model
    new = {name: tensor for name, tensor in before.items() if is_new(name, architecture)}
    after = {
        name.replace(".modules_to_save.default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    for name, tensor in new.items():
        found = [p for trained_name, p in after.items() if trained_name.endswith(name)]
        assert len(found) == 1, name
        assert not torch.equal(found[0], tensor), name


@every_case
def test_the_formula_counts_what_is_trained(method: Method, architecture: Architecture) -> None:
    model = built(method, architecture)
    counted = count_parameters(model, architecture.new_modules)
    pretrained = architecture.make().base_model
    assert method.count(pretrained, options_of(method)) == counted["adapter"]
    head = sum(
        parameter.numel()
        for name, parameter in architecture.make().named_parameters()
        if is_new(name, architecture)
    )
    assert counted["head"] == head


PLACES: dict[str, dict[str, Any]] = {
    "names": {"target_modules": ["query", "value"]},
    "pattern": {"target_modules": [r".*layer\.1\..*dense"]},
    "all_linear": {"target_modules": ["all-linear"]},
    "one_layer": {"layers_to_transform": [1]},
    "excluded": {"exclude_modules": ["query"]},
    "wide": {"k": 100, "init_r": 100},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", ["bottleneck", "lora", "adalora", "sora", "lora2"])
def test_the_formula_counts_the_chosen_matrices(name: str, place: dict[str, Any]) -> None:
    bert = ARCHITECTURES[0]
    counted = count_parameters(built(METHODS[name], bert, **place), bert.new_modules)
    counting = METHODS[name].count(bert.make().base_model, options_of(METHODS[name], **place))
    assert counting == counted["adapter"]


def tiny_convnext() -> PreTrainedModel:
    """An image classifier with convolutions, of which some are grouped."""
    sizes = {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2, "image_size": 16}
    return ConvNextForImageClassification(ConvNextConfig(**sizes, patch_size=2))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
@pytest.mark.parametrize("module", ["patch_embeddings", "dwconv", "pwconv1"])
@pytest.mark.parametrize("name", ["lora", "adalora", "lora2"])
def test_the_formula_counts_convolutions(name: str, module: str) -> None:
    options = options_of(METHODS[name], target_modules=[module], k=8, init_r=8)
    model = METHODS[name].build(BaseModel(tiny_convnext(), (), None), options, 10)
    counting = METHODS[name].count(tiny_convnext().base_model, options)
    assert counting == count_parameters(model, HEADS)["adapter"]


@pytest.mark.parametrize("name", ["head", "bitfit", "bottleneck", "prompt", "lora", "lora2"])
def test_modules_asked_for_are_trained_beside_those_that_lack_weights(name: str) -> None:
    deberta = ARCHITECTURES[1]
    asked = "deberta.embeddings.word_embeddings"
    model = built(METHODS[name], deberta, modules_to_save=[asked])
    names = [n for n, parameter in model.named_parameters() if parameter.requires_grad]
    for module in (asked, "pooler.dense", "classifier"):
        assert any(f"{module}.modules_to_save" in n for n in names), module


# Saving


@torch.no_grad()
def fresh(architecture: Architecture) -> PreTrainedModel:
    """The pretrained model again, with other random numbers where the checkpoint has none."""
    model = architecture.make()
    for name, parameter in model.named_parameters():
        if is_new(name, architecture):
            parameter.normal_()
    return model


def reloaded(method: Method, architecture: Architecture, folder: Path) -> nn.Module:
    """Load what was saved as the commands do."""
    if method.whole:
        return load_base_model(str(folder), AutoConfig.from_pretrained(folder), "float32").model
    return load_adapter(fresh(architecture), folder)


@pytest.mark.slow
@every_case
def test_saved_and_loaded_into_a_fresh_model_it_is_the_same(
    method: Method, architecture: Architecture, trained: Callable[..., Trained]
) -> None:
    saved = trained(method, architecture)
    expected = logits(saved.model)
    assert not torch.allclose(logits(fresh(architecture)), expected, atol=1e-4)
    loaded = reloaded(method, architecture, saved.folder)
    torch.testing.assert_close(logits(loaded), expected, atol=1e-6, rtol=1e-6)
    assert method.whole != isinstance(loaded, PeftModel)


MERGING = [case for case in CASES if case[0].merges]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "architecture"),
    MERGING,
    ids=[f"{method.name}-{architecture.name}" for method, architecture in MERGING],
)
def test_merged_into_the_weights_it_is_the_same(
    method: Method, architecture: Architecture, trained: Callable[..., Trained]
) -> None:
    model: Any = reloaded(method, architecture, trained(method, architecture).folder)
    expected = logits(model)
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert type(merged) is type(architecture.make())
    assert merged.state_dict().keys() == architecture.make().state_dict().keys()


# Refusals

REFUSED = {
    "bitfit_without_biases": ("bitfit", "llama", {}, "bitfit trains biases"),
    "prompt_of_a_decoder": ("prompt", "llama", {}, "prompt tuning cannot classify with llama"),
    "lora_rank": ("lora", "bert", {"k": 0}, "k=0 must be"),
    "sora_threshold": ("sora", "bert", {"threshold": -1.0}, "threshold=-1.0 must not be"),
    "bottleneck_size": ("bottleneck", "bert", {"bottleneck_size": 0}, "bottleneck_size=0 must be"),
    "adalora_target": ("adalora", "bert", {"target_r": 4}, "target_r=4: AdaLoRA needs"),
    "adalora_schedule": ("adalora", "bert", {"tinit": 2}, "leave none in which to prune"),
    **{
        f"{name}_target": (name, "bert", {"target_modules": ["nothing"]}, "chosen by nothing")
        for name in ("bottleneck", "lora", "adalora", "sora", "lora2")
    },
}


@pytest.mark.parametrize(("name", "on", "changed", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_one_sentence(
    name: str, on: str, changed: dict[str, Any], said: str
) -> None:
    architecture = next(each for each in ARCHITECTURES if each.name == on)
    with pytest.raises(UserError, match=said) as raised:
        built(METHODS[name], architecture, **changed)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("name", ["bottleneck", "lora", "adalora", "sora", "lora2"])
def test_counting_nothing_is_refused_too(name: str) -> None:
    options = options_of(METHODS[name], target_modules=["nothing"])
    with pytest.raises(UserError, match="chosen by nothing"):
        METHODS[name].count(ARCHITECTURES[0].make().base_model, options)


def test_all_linear_leaves_out_what_is_trained_whole() -> None:
    """PEFT finds heads by the ends of names, and DistilBERT has a pre_classifier."""
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 64}
    model = DistilBertForSequenceClassification(DistilBertConfig(**sizes))
    config = Lora2Config(task_type="SEQ_CLS", target_modules="all-linear", k=2)
    names = lora2_layers(wrap(model, config), "default")
    assert len(names) == 6
    assert not any("classifier" in name for name in names)


def test_a_model_without_default_targets_is_named() -> None:
    sizes = {"d_model": 16, "d_inner": 16, "n_layer": 1, "n_head": 2}
    model = XLNetForSequenceClassification(XLNetConfig(vocab_size=64, **sizes))
    with pytest.raises(UserError, match="no default for xlnet; write names"):
        wrap(model, Lora2Config(task_type="SEQ_CLS", k=2))
