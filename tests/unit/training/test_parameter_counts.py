"""What a trained model is said to hold at the end, next to the file that it is saved in."""

from pathlib import Path

import pytest
from peft import get_peft_model
from safetensors.torch import load_file

from lora2 import Lora2Config, RankAllocator, compact_adapter
from lora2.training.adapters import count_final_parameters, count_parameters
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
    trained = count_parameters(model)["adapter"]
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
