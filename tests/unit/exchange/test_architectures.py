"""Exports of many architectures, checked on inputs that are made up from their configurations."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch import nn

from architectures import ARCHITECTURES, Architecture
from lora2 import Lora2Config, UserError, export_lora, export_merged
from lora2.exchange.verification import sample_batch

pytestmark = pytest.mark.slow

ADAPTER = {"k": 2, "init_r": 2, "target_modules": "all-linear", "init_weights": False}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.model)
def test_an_adapter_is_exported_without_inputs(architecture: Architecture, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # transformers' own, of single architectures.
        warnings.simplefilter("ignore")
        model = get_peft_model(architecture.build(), Lora2Config(**ADAPTER))
        assert export_lora(model, tmp_path / "lora").difference < 1e-4


def named(name: str) -> nn.Module:
    return next(each for each in ARCHITECTURES if each.model == name).build()


def test_each_row_ends_in_one_end_token() -> None:
    tokens = sample_batch(named("BartForSequenceClassification"))["input_ids"]
    assert (tokens == 2).sum(-1).tolist() == [1, 1]
    assert tokens[:, -1].tolist() == [2, 2]


def test_choices_have_a_dimension_of_their_own() -> None:
    assert sample_batch(named("BertForMultipleChoice"))["input_ids"].shape == (2, 2, 12)


def test_images_and_texts_are_given_together() -> None:
    inputs = sample_batch(named("CLIPModel"))
    assert len(inputs["input_ids"]) == len(inputs["pixel_values"])


def test_unknown_inputs_are_asked_for_by_the_inner_class(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.lin(left + right)

    fields = ADAPTER | {"target_modules": ["lin"]}
    model = get_peft_model(Strange(), Lora2Config(**fields))
    with pytest.raises(UserError, match=r"forward of a Strange .* pass inputs of it as batch="):
        export_lora(model, tmp_path / "lora")
    inputs = {"left": torch.ones(2, 3), "right": torch.ones(2, 3)}
    assert export_lora(model, tmp_path / "lora", batch=inputs).difference < 1e-4


@pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")
def test_mamba_is_exported_without_what_pefts_lora_refuses(tmp_path: Path) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    model = Architecture("MambaForCausalLM", "MambaConfig", sizes).build()
    adapted = get_peft_model(model, Lora2Config(**ADAPTER, exclude_modules=["out_proj"]))
    assert export_lora(adapted, tmp_path / "lora").difference < 1e-4
    assert export_merged(adapted, tmp_path / "merged").difference < 1e-4
