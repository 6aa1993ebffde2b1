"""Tiny Llamas with quantized linear layers, by kind of quantization."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from unit.tiny_transformers import tiny_llama

# On some CPUs bitsandbytes evaluates a 4-bit weight in packs of 32 rows and of 64 values of a row.
SIZES = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}


def four_bits() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def four_bits_in_float32() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def eight_bits() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def torchao_int8() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def torchao_int4() -> Any:
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup
    from transformers import TorchAoConfig

    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))


def torchao_int8_activations() -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8DynamicActivationInt8WeightConfig())


KINDS: dict[str, Callable[[], Any]] = {
    "bitsandbytes nf4": four_bits_in_float32,
    "bitsandbytes nf4 double, bfloat16": four_bits,
    "bitsandbytes int8": eight_bits,
    "torchao int8": torchao_int8,
    "torchao int4": torchao_int4,
}


def save_plain(folder: Path, dtype: torch.dtype) -> Path:
    """Write a plain tiny Llama, to be quantized while it is loaded."""
    tiny_llama(**SIZES).to(dtype).save_pretrained(folder)
    return folder


def load_quantized(folder: Path, configuration: Callable[[], Any]) -> PreTrainedModel:
    """The Llama in evaluation mode, all of its linear layers but the head quantized."""
    return LlamaForCausalLM.from_pretrained(
        folder, quantization_config=configuration(), device_map={"": "cpu"}, dtype="auto"
    )


def batch() -> dict[str, Tensor]:
    """Rows to learn by heart."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 30, (4, 12), generator=generator)
    return {"input_ids": ids, "labels": ids}


def train(
    model: nn.Module, steps: int = 20, after_step: Callable[[], object] = lambda: None
) -> list[float]:
    """Losses of some steps of AdamW."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        after_step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=batch()["input_ids"]).logits
