"""Bottleneck adapters for tests, on tiny models."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lora2 import BottleneckConfig
from unit.models import LINEAR


def config(**fields: Any) -> BottleneckConfig:
    return BottleneckConfig(**({"target_modules": ["lin0", "lin1"], "bottleneck_size": 3} | fields))


def adapted(**fields: Any) -> PeftModel:
    """A model whose adapters change it, biases too."""
    torch.manual_seed(1)
    model = get_peft_model(LINEAR.model(), config(**fields)).eval()
    move(model)
    return model


@torch.no_grad()
def move(model: nn.Module, adapter_name: str = "default", seed: int = 0) -> None:
    """Move all parameters of an adapter away from their start."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "bottleneck_" in name and f".{adapter_name}." in name:
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
