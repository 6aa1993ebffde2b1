"""What a trained model is said to hold at the end, next to the file that it is saved in."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from lora2 import Lora2Config, RankAllocator, compact_adapter
from lora2.training.base_models.models import BaseModel
from lora2.training.budgets import final_size
from lora2.training.methods.registry import METHODS
from lora2.training.methods.wrapping import HEADS, head_names
from lora2.training.options.arguments import RunSettings
from lora2.training.parameter_counts import count_final_parameters, count_parameters, trained_parts
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.layer import lora2_layers
from unit.models import tokens
from unit.tiny_transformers import tiny_llama

WHOLE = {"modules_to_save": ["lm_head"]}
ROWS = {"trainable_token_indices": [1, 3]}


@pytest.mark.parametrize("others", [{}, WHOLE, ROWS, WHOLE | ROWS], ids=str)
@pytest.mark.parametrize("compacts", [False, True])
def test_final_parameters_are_those_of_the_saved_file(
    others: dict[str, list[object]], compacts: bool, tmp_path: Path
) -> None:
    model = get_peft_model(
        tiny_llama(),
        Lora2Config(
            k=4,
            init_r=4,
            target_r=1,
            tinit=0,
            tfinal=0,
            deltaT=1,
            target_modules="all-linear",
            exclude_modules=["lm_head"],
            **others,
        ),
    )
    trained = count_parameters(model, HEADS)["adapter"]
    allocator = RankAllocator(model, total_steps=2)
    for _ in range(2):
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        allocator.step()
    if compacts:
        compact_adapter(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    counted = count_final_parameters(model, head=())
    assert counted["adapter"] == sum(tensor.numel() for tensor in saved.values()) < trained


def tiny_distilbert() -> DistilBertForSequenceClassification:
    """Its head is a classifier and a pre_classifier, whose names have one end."""
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            dim=8, n_layers=2, n_heads=2, hidden_dim=16, vocab_size=30, max_position_embeddings=16
        )
    )


PLACED = {"k": 2, "init_r": 2, "target_modules": "all-linear"}
HEAD_OF_DISTILBERT = (8 * 8 + 8) + (8 * 2 + 2)


@pytest.mark.parametrize("method", ["head", "full", "bitfit", "lora", "lora2"])
def test_what_every_method_trains_is_the_head_whatever_the_checkpoint_has(method: str) -> None:
    """All of its weights may be in the checkpoint."""
    base = BaseModel(tiny_distilbert(), new_modules=())
    options = RunSettings.from_options(PLACED | {"target_modules": ["all-linear"]}).adapter
    model = METHODS[method].build(base, options, 10)
    counted = count_parameters(model, head_names(base))
    pretrained = tiny_distilbert().base_model
    assert counted["head"] == HEAD_OF_DISTILBERT
    assert counted["adapter"] == METHODS[method].count(pretrained, options)


PATTERNS = [
    {"k_pattern": {"q_lin": 1}},
    {"rank_pattern": {"q_lin": 3, "lin1": 0}},
    {"k_pattern": {"layer.0.attention.k_lin": 1}, "rank_pattern": {"k_lin": 1}},
    {"k_pattern": {"q_lin": 100}},
    {"exclude_modules": ["q_lin"]},
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_the_sizes_that_are_counted_are_those_that_are_trained(
    patterns: dict[str, object],
) -> None:
    placed = PLACED | {"target_modules": ["all-linear"]}
    options = RunSettings.from_options(placed | patterns).adapter
    base = BaseModel(tiny_distilbert(), new_modules=())
    model = METHODS["lora2"].build(base, options, 10)
    pretrained = tiny_distilbert().base_model
    trained = count_parameters(model, head_names(base))["adapter"]
    assert METHODS["lora2"].count(pretrained, options) == trained
    sizes = [layer.matrix_size("default") for layer in lora2_layers(model, "default").values()]
    final = METHODS["lora2"].final
    assert final is not None
    assert final(pretrained, options) == final_sizes(model.peft_config["default"], sizes)


def test_a_module_trained_whole_is_of_the_adapter_and_not_of_the_head() -> None:
    whole = "distilbert.embeddings.position_embeddings"
    config = Lora2Config(
        **PLACED, target_r=1, modules_to_save=[whole], task_type="SEQ_CLS",
        exclude_modules=["classifier", "pre_classifier"],
    )  # fmt: skip
    model = get_peft_model(tiny_distilbert(), config)
    parts = trained_parts(model, HEADS)
    assert [sum(map(torch.Tensor.numel, part)) for part in parts[1:]] == [
        16 * 8,
        HEAD_OF_DISTILBERT,
    ]
    plain = get_peft_model(tiny_distilbert(), replace(config, modules_to_save=None))
    sizes = zip(final_size(model, HEADS) or (), final_size(plain, HEADS) or (), strict=True)
    assert [more - less for more, less in sizes] == [16 * 8, 16 * 8]
