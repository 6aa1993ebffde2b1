"""Exported adapters meet the rules of the engines, and the rules notice what breaks them."""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from lora2 import Lora2Config, export_lora
from lora2.exchange.engines import ENGINES, objections
from unit.mixtures import MIXTRAL
from unit.models import disturb, prune_half
from unit.tiny_transformers import tiny_llama, tiny_llama_classifier

CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "base_model_name_or_path": "base",
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
}
SHAPES = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 8),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (8, 4),
}
MIXED = {
    "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight": (2, 8),
    "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight": (8, 2),
}
VLLM, SGLANG, LLAMA_CPP = (engine.name for engine in ENGINES)


def refusing(config: dict, shapes: dict) -> set[str]:
    return {engine.name for engine in ENGINES if objections(engine, config, shapes)}


def exported(path: Path) -> tuple[dict, dict]:
    tensors = load_file(path / "adapter_model.safetensors")
    return json.loads((path / "adapter_config.json").read_text()), {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("changes", "shapes", "expected"),
    [
        ({}, {}, set()),
        ({}, MIXED, {SGLANG, LLAMA_CPP}),
        ({"lora_alpha": None}, {}, {VLLM, SGLANG, LLAMA_CPP}),
        ({"base_model_name_or_path": None}, {}, {LLAMA_CPP}),
        ({"peft_type": None}, {}, {SGLANG}),
        ({"bias": "all"}, {}, {VLLM, SGLANG, LLAMA_CPP}),
        ({"use_dora": True}, {}, {VLLM, SGLANG, LLAMA_CPP}),
        ({"use_rslora": True}, {}, {SGLANG, LLAMA_CPP}),
        ({"modules_to_save": ["score"]}, {}, {SGLANG, LLAMA_CPP}),
        ({"modules_to_save": ["lm_head"]}, {}, {VLLM, SGLANG, LLAMA_CPP}),
        ({"rank_pattern": {"q_proj": 0}}, {}, {VLLM, SGLANG, LLAMA_CPP}),
        ({}, {"base_model.model.emb.lora_embedding_A": (4, 9)}, {VLLM, SGLANG, LLAMA_CPP}),
        ({}, dict.fromkeys(SHAPES, (513, 8)), {VLLM}),
    ],
)
def test_rules_of_each_engine(changes: dict, shapes: dict, expected: set[str]) -> None:
    assert refusing(CONFIG | changes, SHAPES | shapes) == expected


@pytest.mark.parametrize(
    ("form", "mixed"),
    # Half of the values are pruned: two are left of four in the first, one a module in the others.
    [({"k": 3, "init_r": 4}, True), ({"k": 4, "init_r": 2}, False), ({"k": 1}, False)],
)
def test_padded_language_model_adapter_is_served_by_all(
    form: dict, mixed: bool, tmp_path: Path
) -> None:
    model = get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", **form)).eval()
    model.peft_config["default"].base_model_name_or_path = "base"
    disturb(model)
    prune_half(model)
    # One module has lost all, another all but one value.
    layers = model.get_base_model().model.layers
    with torch.no_grad():
        layers[0].mlp.up_proj.lora2_lambda["default"].zero_()
        layers[1].mlp.up_proj.lora2_lambda["default"][1:] = 0
    padded = export_lora(model, tmp_path / "padded")
    assert refusing(*exported(tmp_path / "padded")) == set()
    assert padded.objections == {VLLM: [], SGLANG: [], LLAMA_CPP: []}
    export_lora(model, tmp_path / "compact", compact=True)
    assert refusing(*exported(tmp_path / "compact")) == ({SGLANG, LLAMA_CPP} if mixed else set())


@pytest.mark.parametrize("compact", [False, True], ids=["padded", "compact"])
def test_sizes_of_experts_are_not_taken_for_ranks(compact: bool, tmp_path: Path) -> None:
    model = MIXTRAL.adapted()
    model.peft_config["default"].base_model_name_or_path = "base"
    done = export_lora(model, tmp_path / "lora", compact=compact)
    config, shapes = exported(tmp_path / "lora")
    assert len({shape[0] for name, shape in shapes.items() if "lora_A" in name}) > 1
    only = ["target_parameters, weights of experts"]
    assert done.objections == {VLLM: only, SGLANG: only, LLAMA_CPP: only}
    large = {name: (600, *shape[1:]) for name, shape in shapes.items() if "experts" in name}
    assert all(objections(engine, config, shapes | large) == only for engine in ENGINES)


def test_head_of_a_classifier_is_served_by_vllm_alone(tmp_path: Path) -> None:
    model = get_peft_model(tiny_llama_classifier(), Lora2Config(task_type="SEQ_CLS", k=2))
    model.peft_config["default"].base_model_name_or_path = "base"
    disturb(model)
    export_lora(model, tmp_path / "lora")
    assert refusing(*exported(tmp_path / "lora")) == {SGLANG, LLAMA_CPP}


def test_llama_cpp_does_not_take_layers_that_are_stored_transposed() -> None:
    config = {"r": 2, "lora_alpha": 2, "target_modules": ["c_attn"], "peft_type": "LORA"}
    config |= {"fan_in_fan_out": True, "base_model_name_or_path": "gpt2"}
    refusing = [engine.name for engine in ENGINES if objections(engine, config, {})]
    assert refusing == ["llama.cpp"]
