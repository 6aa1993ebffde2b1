"""SoRA adapters for tests: on tiny models, and with gates closed by hand."""

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from lora2 import SoraConfig
from lora2.tuners.base.layers.finding import layers_of_type
from lora2.tuners.sora.layer import SoraLayer
from unit.models import CONV1D, LINEAR, Kind, rows

FORMS = (LINEAR, Kind("linear_without_bias", LINEAR.make, rows, ["lin0"]), CONV1D)
every_kind = pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.name)


def config(kind: Kind = LINEAR, **fields: Any) -> SoraConfig:
    defaults = {"target_modules": kind.target_modules, "r": 4, "lora_alpha": 6.0}
    return SoraConfig(**(defaults | fields))


def adapted(kind: Kind = LINEAR, **fields: Any) -> PeftModel:
    """A model whose adapter changes it."""
    torch.manual_seed(1)
    return get_peft_model(kind.model(), config(kind, init_weights=False, **fields)).eval()


def layers(model: nn.Module, adapter_name: str = "default") -> list[SoraLayer]:
    return list(layers_of_type(model, adapter_name, SoraLayer).values())


@torch.no_grad()
def close(model: nn.Module, kept: list[list[int]], adapter_name: str = "default") -> None:
    """Set all gates to zero but those of these indices, layer by layer."""
    for layer, indices in zip(layers(model, adapter_name), kept, strict=True):
        gate = layer.sora_gate[adapter_name]
        mask = torch.zeros_like(gate)
        mask[indices] = 1
        gate.mul_(mask)


def deltas(model: nn.Module, adapter_name: str = "default") -> list[Tensor]:
    return [layer.get_delta_weight(adapter_name).detach() for layer in layers(model, adapter_name)]


# Indices of the gates left open, of two layers.
KEPT = {
    "some": [[0, 2], [3]],
    "all": [[0, 1, 2, 3], [0, 1, 2, 3]],
    "none_of_a_matrix": [[], [1, 2]],
    "none": [[], []],
}
every_pruning = pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)

SCHEDULE = {"threshold": 0.02, "max_threshold": 0.3, "threshold_schedule": "exp_linear"}
