"""Which modules an adapter goes into, and how wide it is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel

from lora2 import Lora2Config, UserError, compact_adapter
from unit.models import (
    CONV1D,
    LINEAR,
    DeepMlp,
    Mlp,
    adapter_state,
    disturb,
    layers_of,
    prune_half,
    rows,
    sgd_steps,
)
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama


def adapted_names(base: nn.Module, **fields: object) -> set[str]:
    model = get_peft_model(base, Lora2Config(k=2, init_r=2, **fields))
    return {name.removeprefix("base_model.model.") for name in layers_of(model)}


@pytest.mark.parametrize("layers", [[1], 1, [0, 2]])
@pytest.mark.parametrize("pattern", [None, "layers", ["blocks", "layers"]])
def test_layers_to_transform(layers: list[int] | int, pattern: str | list[str] | None) -> None:
    names = adapted_names(
        DeepMlp(), target_modules=["lin0"], layers_to_transform=layers, layers_pattern=pattern
    )
    wanted = [layers] if isinstance(layers, int) else layers
    assert names == {f"body.layers.{index}.lin0" for index in wanted}


@pytest.mark.parametrize(
    ("targets", "excluded", "expected"),
    [
        (["lin0", "lin1"], ["lin1"], {f"body.layers.{i}.lin0" for i in range(3)}),
        (["lin0"], ["layers.1.lin0"], {"body.layers.0.lin0", "body.layers.2.lin0"}),
        (["lin0"], r".*\.[12]\..*", {"body.layers.0.lin0"}),
        (r".*\.0\..*", r".*lin1", {"body.layers.0.lin0"}),
        ("all-linear", ["lin1"], {f"body.layers.{i}.lin0" for i in range(3)}),
        (r".*\.(0|2)\.lin1", None, {"body.layers.0.lin1", "body.layers.2.lin1"}),
    ],
)
def test_targets_and_exclusions(
    targets: list[str] | str, excluded: list[str] | str | None, expected: set[str]
) -> None:
    names = adapted_names(DeepMlp(), target_modules=targets, exclude_modules=excluded)
    assert names == expected


def test_all_linear_leaves_the_head_out() -> None:
    assert "lm_head" not in adapted_names(
        tiny_llama(), target_modules="all-linear", task_type="CAUSAL_LM"
    )
    names = adapted_names(tiny_bert(), target_modules="all-linear", task_type="SEQ_CLS")
    assert "classifier" not in names
    assert len(names) == 2 * 6 + 1
    assert len(adapted_names(CONV1D.model().gpt, target_modules="all-linear")) == 4


def test_patterns_give_modules_their_own_width_and_rank(tmp_path: Path) -> None:
    fields = {
        "target_modules": ["lin0", "lin1"],
        "k": 3,
        "init_r": 4,
        "k_pattern": {"lin1": 2, r"layers\.2\.lin.": 1},
        "rank_pattern": {"layers.0.lin0": 7},
    }
    torch.manual_seed(0)
    model = get_peft_model(DeepMlp().eval(), Lora2Config(**fields))
    shapes = {
        name.removeprefix("base_model.model.body.layers."): tuple(layer.lora2_u["default"].shape)
        for name, layer in layers_of(model).items()
    }
    assert shapes == {
        "0.lin0": (3, 7), "0.lin1": (2, 4),
        "1.lin0": (3, 4), "1.lin1": (2, 4),
        "2.lin0": (1, 4), "2.lin1": (2, 4),
    }  # fmt: skip
    sgd_steps(model, rows())
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    reloaded = PeftModel.from_pretrained(DeepMlp().eval(), tmp_path)
    before, after = adapter_state(model), adapter_state(reloaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # The scaling depends on k: PEFT sorts the patterns on saving, yet the first match counts.
    assert torch.equal(reloaded(rows()), model(rows()))
    assert model.peft_config["default"].k_pattern == fields["k_pattern"]


def test_width_is_cut_to_the_smaller_side_of_the_matrix() -> None:
    model = get_peft_model(Mlp(), Lora2Config(target_modules=["lin0", "lin1"], k=8, init_r=3))
    assert [tuple(m.lora2_u["default"].shape) for m in layers_of(model).values()] == [
        (6, 3),
        (2, 3),
    ]


def test_other_kinds_of_layers_are_refused_in_a_sentence() -> None:
    with pytest.raises(
        UserError,
        match=r"'norm' is a LayerNorm.*Linear, Conv1D, Embedding, Conv1d, Conv2d, Conv3d, M",
    ):
        get_peft_model(
            nn.ModuleDict({"norm": nn.LayerNorm(4)}), Lora2Config(target_modules=["norm"])
        )


@pytest.mark.parametrize("around", [lambda model: model, nn.Sequential])
def test_what_torch_compile_returns_is_refused_and_left_as_it_is(
    around: Callable[[nn.Module], nn.Module],
) -> None:
    model = around(torch.compile(Mlp()))
    before = [type(module) for module in model.modules()]
    with pytest.raises(UserError, match=r"before torch.compile, or compile in place"):
        get_peft_model(model, LINEAR.config())
    assert [type(module) for module in model.modules()] == before


def test_an_adapter_saved_from_compiled_layers_loads_on_plain_ones(tmp_path: Path) -> None:
    model = get_peft_model(DeepMlp(), Lora2Config(target_modules=["lin0"], k=2, init_r=4))
    disturb(model)
    prune_half(model)
    compact_adapter(model)
    expected, layers = adapter_state(model), model.get_base_model().body["layers"]
    for index, layer in enumerate(layers):
        layers[index] = torch.compile(layer)
    model.save_pretrained(tmp_path)
    assert "_orig_mod" not in (tmp_path / "adapter_config.json").read_text()
    loaded = adapter_state(PeftModel.from_pretrained(DeepMlp(), tmp_path))
    assert loaded.keys() == expected.keys()
    for name, tensor in loaded.items():
        assert torch.equal(tensor, expected[name]), name


def test_a_model_that_is_compiled_in_place_is_adapted() -> None:
    model = LINEAR.model()
    model.compile(backend="eager")
    adapted = get_peft_model(model, LINEAR.config())
    assert all("_orig_mod" not in name for name in layers_of(adapted))
    assert len(layers_of(adapted)) == 2


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(Mlp(), Lora2Config(target_modules=["missing"]))


def test_modules_to_save_are_trained_saved_and_reloaded(tmp_path: Path) -> None:
    config = Lora2Config(
        target_modules=["query"], modules_to_save=["classifier"], task_type="SEQ_CLS", k=2
    )
    model = get_peft_model(tiny_bert(), config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(3):
        optimizer.zero_grad()
        model(**bert_batch(seed=step)).loss.backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {
        name for name in before if "lora2_" in name or "modules_to_save.default" in name
    }
    assert changed == trainable
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path)
    batch = bert_batch()
    assert torch.equal(reloaded.eval()(**batch).logits, model.eval()(**batch).logits)


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 30,
}
SIX_OF_BERT = {
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "intermediate.dense", "output.dense",
}  # fmt: skip
SEVEN_OF_LLAMA = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
}  # fmt: skip
DEFAULTS = (
    ("bert", "encoder.layer.{}.", SIX_OF_BERT, {}),
    ("roberta", "encoder.layer.{}.", SIX_OF_BERT, {}),
    ("xlm-roberta", "encoder.layer.{}.", SIX_OF_BERT, {}),
    ("camembert", "encoder.layer.{}.", SIX_OF_BERT, {}),
    # Narrower embeddings come with a linear projection that is not to be adapted.
    ("electra", "encoder.layer.{}.", SIX_OF_BERT, {"embedding_size": 8}),
    (
        "deberta",
        "encoder.layer.{}.",
        {"attention.self.in_proj", *SIX_OF_BERT}
        - {"attention.self.query", "attention.self.key", "attention.self.value"},
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
    (
        "deberta-v2",
        "encoder.layer.{}.",
        {
            "attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj",
            "attention.output.dense", "intermediate.dense", "output.dense",
        },
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    ),
    (
        "mpnet",
        "encoder.layer.{}.",
        {
            "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o",
            "intermediate.dense", "output.dense",
        },
        {},
    ),
    (
        "distilbert",
        "transformer.layer.{}.",
        {
            "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
            "ffn.lin1", "ffn.lin2",
        },
        {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2},
    ),
    (
        "gpt2",
        "h.{}.",
        {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
        {"n_embd": 16, "n_layer": 2, "n_head": 2},
    ),
    ("llama", "layers.{}.", SEVEN_OF_LLAMA, {}),
    ("mistral", "layers.{}.", SEVEN_OF_LLAMA, {}),
    ("qwen2", "layers.{}.", SEVEN_OF_LLAMA, {}),
    ("qwen3", "layers.{}.", SEVEN_OF_LLAMA, {}),
    ("gemma", "layers.{}.", SEVEN_OF_LLAMA, {}),
    ("gemma2", "layers.{}.", SEVEN_OF_LLAMA, {}),
    (
        "vit",
        "layers.{}.",
        {
            "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
            "mlp.fc1", "mlp.fc2",
        },
        {"image_size": 8, "patch_size": 4},
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "prefix", "matrices", "fields"), DEFAULTS, ids=[case[0] for case in DEFAULTS]
)
def test_default_targets_are_the_matrices_of_a_layer_and_nothing_else(
    model_type: str, prefix: str, matrices: set[str], fields: dict
) -> None:
    generic = SMALL if model_type not in ("distilbert", "gpt2") else {"vocab_size": 30}
    if model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"):
        fields = {"num_key_value_heads": 1, "head_dim": 8, **fields}
    config = AutoConfig.for_model(model_type, **(generic | fields))
    with torch.device("meta"):
        base = AutoModel.from_config(config)
        names = adapted_names(base)
    assert names == {prefix.format(layer) + name for layer in range(2) for name in matrices}
