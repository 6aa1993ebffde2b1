"""Adapters that are loaded with and without `low_cpu_mem_usage`, on a base in half precision."""

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import nn


def assert_loaded_alike(base: Callable[[], nn.Module], folder: Path, autocast: bool) -> None:
    """Check that both ways give tensors of one dtype and the same values."""
    usual, low = (
        get_peft_model_state_dict(
            PeftModel.from_pretrained(
                base().bfloat16(), folder,
                low_cpu_mem_usage=low, autocast_adapter_dtype=autocast,
            )
        )
        for low in (False, True)
    )  # fmt: skip
    assert {t.dtype for t in low.values()} == {torch.float32 if autocast else torch.bfloat16}
    for name, tensor in usual.items():
        assert low[name].dtype == tensor.dtype
        assert torch.equal(low[name], tensor)
