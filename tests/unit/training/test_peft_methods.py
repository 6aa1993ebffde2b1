"""Every method of PEFT's registry that adapts modules, through the code of `lora2 train`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.miss.layer import MissLinear
from torch import Tensor, nn
from transformers import BertForSequenceClassification, TrainingArguments

from lora2 import UserError
from lora2.exchange.merge_support import reason_against_merging
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.method import Method
from lora2.training.methods.peft_method import _try_step
from lora2.training.methods.registry import METHODS
from lora2.training.options.arguments import RunSettings
from lora2.training.options.peft_registry import ALL_PEFT_KINDS, KINDS
from lora2.training.parameter_counts import count_parameters
from lora2.tuners.base.loading import load_adapter
from unit import method_case
from unit.method_case import Trained
from unit.tiny_transformers import bert_batch, tiny_bert

# PEFT warns of what its methods do, such as a merge that is done already.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

HEAD = ("classifier",)
STEPS = 2

# PEFT's defaults are for wide models, and some methods have none for modules of BERT.
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "c3a": {"block_size": 4},
    "fourierft": {"n_frequency": 8},
    "ln_tuning": {"target_modules": ["LayerNorm"]},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 2},
    "supertuning": {"sparsity": 0.5},
    "trainable_tokens": {"token_indices": list(range(30)), "target_modules": ["word_embeddings"]},
    "vblora": {"vector_length": 4},
    "waveft": {"n_frequency": 8},
}
# What PEFT does not train on this model, with its reason.
REFUSED: Mapping[str, str] = {
    "adaption_prompt": "Unsupported model type for adaption prompt: 'bert'",
    "poly": "task_ids should not be None",
    "shadow": "Unable to automatically find a `nn.ModuleList` of decoder layers",
}
# What PEFT does not merge, with its reason.
NOT_MERGED: Mapping[str, str] = {"lily": "This method is not supported for Lily"}
# What computes something else once PEFT has merged it, and what keeps its wrapper around the head.
MERGED_WRONGLY = ("ln_tuning", "osf")

TRAINED = [name for name in KINDS if name not in REFUSED]
every_method = pytest.mark.parametrize("name", TRAINED)


def options_of(name: str, **changed: Any) -> Mapping[str, Any]:
    given = {"peft_config": dict(FIELDS.get(name, {}))} | changed
    return RunSettings.from_options(given).adapter


def base() -> BertForSequenceClassification:
    return tiny_bert(max_position_embeddings=32)


def built(method: Method, options: Mapping[str, Any]) -> nn.Module:
    method.check(options)
    torch.manual_seed(1)
    return method.build(BaseModel(base(), HEAD), options, STEPS)


def logits(model: nn.Module) -> Tensor:
    return method_case.logits(model, bert_batch(4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains each method once; do not change the model."""

    @cache
    def of(name: str) -> Trained:
        method, folder = METHODS[name], tmp_path_factory.mktemp(name)
        model = built(method, options_of(name))
        return method_case.train(method, model, folder, bert_batch(8), max_steps=STEPS)

    return of


def test_every_method_of_the_registry_has_a_name() -> None:
    assert {kind.name for kind in ALL_PEFT_KINDS.values()} - {"lora", "adalora"} <= KINDS.keys()
    assert METHODS.keys() >= {"peft", *KINDS}
    assert FIELDS.keys() | REFUSED.keys() <= KINDS.keys()


@pytest.mark.slow
@every_method
def test_two_steps_move_the_adapter(name: str, trained: Callable[[str], Trained]) -> None:
    run = trained(name)
    moved = {
        n for n, p in run.model.named_parameters() if n in run.before and (p != run.before[n]).any()
    }
    assert any("classifier" in each for each in moved)
    assert any("classifier" not in each for each in moved)


@pytest.mark.slow
@every_method
def test_saved_and_loaded_it_is_the_same(name: str, trained: Callable[[str], Trained]) -> None:
    run = trained(name)
    expected = logits(run.model)
    # Nothing may depend on random numbers that are not in the file.
    torch.manual_seed(77)
    torch.testing.assert_close(logits(load_adapter(base(), run.folder)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dora", "hira", "ia3", "loha", "miss", "oft", "vera"])
def test_on_a_model_with_fewer_layers_the_module_that_is_not_there_is_named(
    name: str, trained: Callable[[str], Trained]
) -> None:
    shallow = tiny_bert(max_position_embeddings=32, num_hidden_layers=1)
    module = r"bert\.encoder\.layer\.1\.[a-z.]+"
    with pytest.raises(UserError, match=rf"\(this model has no {module}\)"):
        load_adapter(shallow, trained(name).folder)


@pytest.mark.slow
@every_method
def test_the_count_is_what_is_trained(name: str, trained: Callable[[str], Trained]) -> None:
    counted = count_parameters(trained(name).model, HEAD)
    assert METHODS[name].count(base().base_model, options_of(name)) == counted["adapter"]


@pytest.mark.slow
@every_method
def test_merged_it_is_the_same_or_peft_says_why_not(
    name: str, trained: Callable[[str], Trained]
) -> None:
    model: Any = load_adapter(base(), trained(name).folder)
    reason = reason_against_merging(model)
    if name in NOT_MERGED:
        assert NOT_MERGED[name] in str(reason)
        return
    assert reason is None
    expected = logits(model)
    model.merge_adapter(safe_merge=True)
    merged = model.merge_and_unload()
    is_right = merged.state_dict().keys() == base().state_dict().keys()
    is_right = is_right and torch.allclose(logits(merged), expected, atol=1e-5)
    assert is_right == (name not in MERGED_WRONGLY)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_what_peft_refuses_is_said_in_its_words(name: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        built(METHODS[name], options_of(name))
    assert reason in str(raised.value)
    assert "--peft_config" in str(raised.value)
    assert "\n" not in str(raised.value)


# What is given: a field, an option, or both


def check(name: str, config: Any, **options: Any) -> None:
    chosen = RunSettings.from_options({"peft_config": config, **options}).adapter
    METHODS[name].check(chosen)


BAD: Mapping[str, tuple[str, Any, dict[str, Any], str]] = {
    "no_config": ("peft", None, {}, "needs the config of a method; give a JSON file"),
    "no_type": ("peft", {"r": 2}, {}, "there is no peft_type in it"),
    "type_of_another_kind": ("peft", {"peft_type": ["A"]}, {}, "must be a text"),
    "unknown_type": ("peft", {"peft_type": "MIS"}, {}, "'MIS' is no method of PEFT that adapts"),
    "prompt": ("peft", {"peft_type": "PROMPT_TUNING"}, {}, "is no method of PEFT that adapts"),
    "own_callback": ("peft", {"peft_type": "ADALORA"}, {}, "write --method adalora"),
    "other_callback": ("peft", {"peft_type": "ADAMSS"}, {}, "write --method adamss"),
    "of_this_package": ("peft", {"peft_type": "SORA"}, {}, "write --method sora"),
    "another_type": ("miss", {"peft_type": "OFT"}, {}, "--method miss is MISS; write --method oft"),
    "unknown_field": ("oft", {"oft_block": 4}, {}, "no field 'oft_block'; write oft_block_size"),
    "strange_field": ("miss", {"zzz": 4}, {}, "MissConfig of PEFT has no field 'zzz'; leave it"),
    "text_for_a_number": ("miss", {"r": "8"}, {}, "r is '8', and must be a whole number"),
    "share_of_a_rank": ("dora", {"r": 8.5}, {}, "r is 8.5, and must be a whole number"),
    "text_for_a_list": ("vera", {"modules_to_save": "pooler"}, {}, "must be a list in which"),
    "against_the_variant": ("dora", {"use_dora": False}, {}, "leave use_dora out"),
    "start_of_another": ("pissa", {"init_lora_weights": "olora"}, {}, "is init_lora_weights=pissa"),
    "start_of_data": ("dora", {"init_lora_weights": "eva"}, {}, "is computed from data before"),
    "random_start": ("dora", {"init_lora_weights": "pissa_niter_4"}, {}, "does not save"),
    "refused_by_peft": ("oft", {"r": 3, "oft_block_size": 4}, {}, "OFTConfig of PEFT refuses it"),
    "no_share": ("dora", {"lora_dropout": -0.5}, {}, "lora_dropout=-0.5 must be a finite number"),
    "no_scale": ("dora", {"lora_alpha": 0}, {}, "lora_alpha=0 must be a finite number above 0"),
    "no_scale_of_loha": ("loha", {"alpha": -1}, {}, "alpha=-1 must be a finite number above 0"),
    "no_scale_of_one": (
        "dora", {"alpha_pattern": {"query": 0}}, {}, "alpha_pattern['query']=0 must be"
    ),
    "no_room": ("miss", {"r": 100_000_000}, {}, "r=100000000 must be below 16,777,216"),
    "no_room_for_one": ("dora", {"rank_pattern": {"query": 10**9}}, {}, "must be below 16,777"),
    "no_task": ("miss", {"task_type": "nonsense"}, {}, "task_type='nonsense' is none of SEQ_CLS"),
    "no_targets": ("dora", {"target_modules": []}, {}, "target_modules is empty; write some"),
    "text_in_a_pattern": ("dora", {"rank_pattern": {"query": "x"}}, {}, "rank_pattern is"),
    "null_in_a_pattern": ("dora", {"alpha_pattern": {"query": None}}, {}, "alpha_pattern is"),
    "given_twice": (
        "miss", {"target_modules": ["key"]}, {"target_modules": ["query"]}, "both give it",
    ),
    "no_such_option": (
        "peft", {"peft_type": "IA3"}, {"layers_to_transform": [1]}, "no effect with IA3Config",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "config", "options", "said"), BAD.values(), ids=BAD)
def test_a_wrong_config_is_one_sentence_before_anything_is_loaded(
    name: str, config: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as raised:
        check(name, config, **options)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("pissa", {"lora_alpha": 16.0}),
        ("dora", {"use_dora": True, "rank_pattern": {"query": 2}}),
        ("peft", {"peft_type": "LORA", "init_lora_weights": "orthogonal"}),
        ("supertuning", {"r": None}),
        ("tinylora", {"projection_seed": 2**31}),
        ("miss", {"target_modules": ["query"], "layers_to_transform": 1}),
    ],
)
def test_a_config_may_say_what_peft_takes(name: str, config: dict[str, Any]) -> None:
    check(name, config)


@pytest.mark.parametrize("pattern", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_names_no_module_is_refused(pattern: str) -> None:
    def made(key: str) -> Any:
        options = RunSettings.from_options({"peft_config": {pattern: {key: 2}}}).adapter
        return built(METHODS["dora"], options)

    for key in ("query", r"layer\.0\..*query", "^bert.encoder.layer.1.attention.self.value"):
        made(key)
    with warnings.catch_warnings():
        # As outside of tests, where warnings are no errors.
        warnings.simplefilter("default")
        with pytest.raises(UserError, match=f"{pattern} keys did not match"):
            made("querry")
    with pytest.raises(UserError, match="PEFT cannot put DoRA on this model"):
        made("layer[")


@pytest.mark.slow
def test_a_saved_config_makes_the_same_adapter(trained: Callable[[str], Trained]) -> None:
    content = json.loads((trained("dora").folder / "adapter_config.json").read_text())
    assert "classifier" in content["modules_to_save"]
    options = RunSettings.from_options({"peft_config": content}).adapter
    again: Any = built(METHODS["peft"], options)
    expected = {n for n, p in trained("dora").model.named_parameters() if p.requires_grad}
    assert {n for n, p in again.named_parameters() if p.requires_grad} == expected


def test_peft_loads_another_adapter_where_its_start_is_random(tmp_path: Path) -> None:
    """Why such a start is refused: PEFT draws it again, and the weights below are others."""
    wide = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 32}
    config = LoraConfig(
        r=2, init_lora_weights="pissa_niter_1", target_modules=["query"], task_type="SEQ_CLS"
    )
    model: Any = get_peft_model(tiny_bert(**wide), config)
    model.save_pretrained(str(tmp_path))
    pretrained = tiny_bert(**wide)
    torch.manual_seed(77)
    loaded = load_adapter(pretrained, tmp_path)
    assert not torch.allclose(logits(loaded), logits(model), atol=1e-4)


# The modules of an adapter for which none are named


def adapted(name: str, **changed: Any) -> set[str]:
    model: Any = built(METHODS[name], options_of(name, **changed))
    return {
        module.removesuffix(".base_layer")
        for module, _ in model.get_base_model().named_modules()
        if module.endswith(".base_layer")
    }


@pytest.mark.parametrize("name", ["dora", "miss", "vera", "hira"])
def test_what_adapts_as_lora_does_has_its_default_modules(name: str) -> None:
    lora: Any = METHODS["lora"].build(BaseModel(base(), HEAD), options_of("lora"), STEPS)
    of_lora = {n for n, m in lora.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    assert adapted(name) == of_lora
    assert len(of_lora) == 12


def test_another_method_has_the_default_modules_of_peft() -> None:
    assert {name.rpartition(".")[2] for name in adapted("ia3")} == {"key", "value", "dense"}
    with pytest.raises(UserError, match="there is no default for bert"):
        METHODS["ln_tuning"].build(BaseModel(base(), HEAD), options_of("lora"), STEPS)


@pytest.mark.parametrize("place", [{"target_modules": ["key"]}, {"layers_to_transform": [1]}])
def test_options_and_config_choose_the_same_modules(place: dict[str, Any]) -> None:
    by_option = adapted("miss", **place)
    by_config = adapted("miss", peft_config={"r": 4} | place)
    assert by_option == by_config
    assert len(by_option) < 12


# Half precision, and the optimizer of LoRA+


def test_what_peft_cannot_train_is_found_before_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(self: Any, *arguments: Any, **named: Any) -> None:
        raise RuntimeError("no kernel for Half")

    monkeypatch.setattr(MissLinear, "forward", fails)
    with pytest.raises(UserError, match=r"Miss of PEFT cannot train .*\(bert, float32\)") as raised:
        built(METHODS["miss"], options_of("miss"))
    assert "no kernel for Half" in str(raised.value)


def test_trying_a_step_leaves_no_gradient_and_no_random_number_drawn() -> None:
    model = built(METHODS["miss"], options_of("miss"))
    assert all(parameter.grad is None for parameter in model.parameters())
    # It samples in training.
    model = built(METHODS["pvera"], options_of("pvera"))
    pretrained = base()
    before = torch.random.get_rng_state()
    _try_step(KINDS["pvera"], model, pretrained)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_loraplus_raises_the_rate_of_b_alone() -> None:
    options = options_of("loraplus", loraplus_lr_ratio=4.0)
    model: Any = built(METHODS["loraplus"], options)
    make = METHODS["loraplus"].make_optimizer
    assert make is not None
    arguments = TrainingArguments(learning_rate=0.5, weight_decay=0.25, use_cpu=True, report_to=[])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in make(model, arguments, options).param_groups
        for parameter in group["params"]
    }
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {(2.0, 0.25)}
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {(0.5, 0.25)}


def test_loraplus_trains_an_embedding_at_the_rate_that_was_given() -> None:
    options = options_of("loraplus", target_modules=["query", "word_embeddings"])
    model: Any = built(METHODS["loraplus"], options)
    make = METHODS["loraplus"].make_optimizer
    assert make is not None
    arguments = TrainingArguments(learning_rate=0.5, use_cpu=True, report_to=[])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {
        group["lr"]
        for group in make(model, arguments, options).param_groups
        for parameter in group["params"]
        if "lora_embedding" in names[id(parameter)]
    }
    assert rates == {0.5}


@pytest.mark.parametrize(
    ("name", "fields", "resumes"),
    [
        ("peft", {"peft_type": "LORA"}, True),
        ("peft", {"peft_type": "LORA", "monteclora_config": {}}, False),
        ("vblora", {}, True),
        ("vblora", {"save_only_topk_weights": False}, True),
        ("vblora", {"save_only_topk_weights": True}, False),
        ("dora", {"monteclora_config": {}}, False),
        ("adamss", {}, False),
    ],
)
def test_what_a_checkpoint_lacks_is_not_resumed(
    name: str, fields: Mapping[str, Any], resumes: bool
) -> None:
    given = {**FIELDS.get(name, {}), **fields}
    assert METHODS[name].resumes(options_of(name, peft_config=given)) is resumes
