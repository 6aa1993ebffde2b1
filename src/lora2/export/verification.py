"""Whether what was written computes what the trained model does: logits side by side."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.layers.adapted import layers_with

Batch = Mapping[str, Tensor] | Tensor

# Largest difference relative to the largest logit: float32 differs by the order of its sums, a
# merged half-precision weight is rounded once.
TOLERANCES = {
    torch.float64: 1e-4,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
_ROWS, _LENGTH = 2, 12


def sample_batch(model: Any) -> dict[str, Tensor]:
    """Return inputs for a transformers model: random tokens, or random pixels.

    Raises:
        UserError: a model that takes something else.
    """
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    generator, device = torch.Generator().manual_seed(0), next(model.parameters()).device
    if name == "input_ids" and hasattr(config, "vocab_size"):
        rows = (_ROWS, _LENGTH)
        tokens = torch.randint(config.vocab_size, rows, generator=generator).to(device)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if name == "pixel_values" and hasattr(config, "image_size"):
        images = (_ROWS, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(images, generator=generator).to(device)}
    raise UserError(
        f"batch: what a {type(model).__name__} takes is not known here; give inputs to compare "
        "the exported model on."
    )


def sharing_copy(model: nn.Module) -> Any:
    """Return a copy of a model whose tensors lie in the same memory: what it costs is Python.

    Adapters can be switched, unloaded and loaded in it, and the original stays as it is.
    """
    memo: dict[int, Any] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        # Its own Parameter, for its own requires_grad. Of quantized ones the class matters more.
        plain = type(tensor) is nn.Parameter
        memo[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False) if plain else tensor
    return copy.deepcopy(model, memo).eval()


def adapter_logits(model: nn.Module, adapter_name: str, batch: Batch | None) -> tuple[Tensor, Any]:
    """Return what the model computes with this adapter alone, and its base model to load into.

    Raises:
        UserError: an adapter is merged, so that the base model is not there.
    """
    if any(layer.merged for layer in layers_with(model, adapter_name).values()):
        raise UserError(f"adapter {adapter_name!r} is merged: unmerge it before the export.")
    copied = sharing_copy(model)
    copied.set_adapter(adapter_name)
    expected = logits(copied, sample_batch(copied) if batch is None else batch)
    return expected, copied.unload()


@torch.no_grad()
def logits(model: Any, batch: Batch | None) -> Tensor:
    """Return a model's output for a batch: its logits, else its first output; float32 or wider."""
    if batch is None:
        batch = sample_batch(model)
    output = model(batch) if isinstance(batch, Tensor) else model(**batch)
    if not isinstance(output, Tensor):
        output = output.logits if hasattr(output, "logits") else output[0]
    return output.to(torch.promote_types(output.dtype, torch.float32))


def check_same(expected: Tensor, found: Tensor, dtype: torch.dtype) -> float:
    """Return the largest difference, relative to the largest logit.

    Raises:
        UserError: it is beyond what `dtype` allows.
    """
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not difference <= TOLERANCES[dtype]:
        raise UserError(
            f"What was exported computes something else: logits differ by {difference:.1e} of the "
            f"largest, more than {TOLERANCES[dtype]:.0e}, so it was not kept. Export in float32, "
            "and report it if that does not help."
        )
    return difference
