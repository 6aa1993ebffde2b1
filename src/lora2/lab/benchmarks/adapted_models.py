"""Puts adapters on the models that are compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from peft import PeftModel, get_peft_model
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from lora2.lab.benchmarks.trained_model import AdapterSize
from lora2.lab.benchmarks.workloads import Workload
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.lora2.config import Lora2Config

ADAPTER_NAME = "default"
ALPHA = 16
"""The lora_alpha of every method that has one."""


def target_fields(workload: Workload, size: AdapterSize) -> dict[str, Any]:
    """Return the fields of a config that name what is adapted."""
    layers = None if size.layers is None else list(range(size.layers))
    return {
        "target_modules": DEFAULT_TARGET_MODULES[workload.model_type],
        "layers_to_transform": layers,
        **({"target_parameters": list(workload.parameters)} if workload.parameters else {}),
    }


def adapted_modules(model: nn.Module, workload: Workload, size: AdapterSize) -> list[str]:
    """Return the names of the modules that a method adapts."""
    config = Lora2Config(**target_fields(workload, size))
    return [n for n, _ in model.named_modules() if check_target_module_exists(config, n)]


def with_adapter(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Return a PEFT model of the config, in which what was trained before is trained, too."""
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adapted = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    # PEFT freezes all but the adapter; with `modules_to_save` it would copy the head.
    for parameter in head:
        parameter.requires_grad_(True)
    return adapted


def next_allocation(adapted: PeftModel) -> Callable[[], object]:
    """Return what gives a tuner of PEFT its next budget, as AdaLoRA's takes it after each step."""
    tuner: Any = adapted.base_model
    # AdaLoRA takes no budget in step 0, hence the count from 1.
    completed = itertools.count(1)
    return lambda: tuner.update_and_allocate(next(completed))
