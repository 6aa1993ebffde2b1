"""PEFT's conversion to a LoRA: of methods that have one, on the base model they were put on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from peft.tuners.lily import LilyConfig
from torch import nn

from lora2 import UserError
from lora2.exchange.converted import export_converted
from lora2.exchange.verification import logits, sample_batch
from unit.tiny_transformers import tiny_bert, tiny_roberta

TARGETS = ["query", "value"]


def adapted(config: Any, make: Any = tiny_bert) -> PeftModel:
    """An adapter whose parameters are all away from their start."""
    model = get_peft_model(make(), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def vera() -> PeftModel:
    return adapted(VeraConfig(r=4, target_modules=TARGETS, task_type="SEQ_CLS"))


def test_of_full_rank_it_computes_the_same(tmp_path: Path) -> None:
    model = vera()
    batch = sample_batch(model)
    expected = logits(model, batch)
    done = export_converted(model, tiny_bert(), tmp_path / "lora", 8, batch=batch)
    assert done.difference < 1e-5
    read_back = PeftModel.from_pretrained(tiny_bert(), str(tmp_path / "lora")).eval()
    torch.testing.assert_close(logits(read_back, batch), expected, atol=1e-5, rtol=1e-4)
    # The adapter is as it was.
    assert torch.equal(logits(model, batch), expected)


def test_of_a_lower_rank_it_says_how_much_is_left_out(tmp_path: Path) -> None:
    differences = [
        export_converted(vera(), tiny_bert(), tmp_path / str(rank), rank).difference
        for rank in (1, 4)
    ]
    assert differences[0] > 1e-3 > differences[1]


REFUSED = {
    "not_additive": (LilyConfig(r=4, target_modules=TARGETS), 2, "PEFT has no conversion of LILY"),
    "rank_too_high": (VeraConfig(r=4, target_modules=TARGETS), 9, "rank 9 is larger than"),
    "weights_changed": (
        LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="pissa"), 2,
        "has changed the weight of bert.encoder.layer.0.attention.self.query below it",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "rank", "said"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_lora_is_refused_and_nothing_written(
    config: Any, rank: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        export_converted(adapted(config), tiny_bert(), tmp_path / "lora", rank)
    assert said in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError):
        export_converted(vera(), nn.Identity(), tmp_path, 2)


@pytest.mark.parametrize("make", [tiny_bert, tiny_roberta])
def test_heads_and_excluded_modules_are_carried_over(make: Any, tmp_path: Path) -> None:
    # RoBERTa's head has two weights.
    config = LoHaConfig(
        r=2, target_modules=[*TARGETS, "key"], exclude_modules=["key"], task_type="SEQ_CLS"
    )
    model = adapted(config, make)
    batch = sample_batch(model)
    expected = logits(model, batch)
    done = export_converted(model, make(), tmp_path / "lora", 8, batch=batch)
    assert done.difference < 1e-5
    read_back = PeftModel.from_pretrained(make(), str(tmp_path / "lora")).eval()
    torch.testing.assert_close(logits(read_back, batch), expected, atol=1e-5, rtol=1e-4)


def test_an_output_without_a_tensor_is_refused() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> dict[str, str]:
            return {"text": "none"}

    with pytest.raises(UserError, match="the model's output, text, holds no tensor to compare"):
        logits(Words(), {"x": torch.ones(1, 2)})
