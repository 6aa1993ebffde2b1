"""Whether what was written computes what the trained model does.

The logits of both are compared, in the dtype that the model computes in; and of a LoRA the change
of each weight as well, since half precision may round away an adapter's whole effect on logits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.layer import AdaptedLayer, layers_with
from lora2.tuners.base.quantized import activation_dtype_of

Batch = Mapping[str, Tensor] | Tensor

# Largest difference of logits, relative to the largest: float32 differs by the order of its sums,
# half precision by where it rounds.
TOLERANCES = {
    torch.float64: 1e-4,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# Difference of a weight's change, relative to the change: by the dtype that it was written in.
_CHANGE_TOLERANCES = {
    torch.float64: 1e-5,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
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
        more = {"decoder_input_ids": tokens} if config.is_encoder_decoder else {}
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **more}
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


def check_same(expected: Tensor, found: Tensor, tolerance: float) -> float:
    """Return the largest difference, relative to the largest logit.

    Raises:
        UserError: it is beyond the tolerance.
    """
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not difference <= tolerance:
        raise UserError(
            f"What was written computes something else: logits differ by {difference:.1e} of the "
            f"largest, more than {tolerance:.0e}, so it was not kept; try a model in float32."
        )
    return difference


def tolerance_of(model: nn.Module, written: torch.dtype = torch.float32) -> float:
    """Return how far logits may differ, by the dtypes of the model and of what was written.

    A quantized model may compute in half precision, whatever its other weights are.
    """
    if any(layer.is_quantized for layer in model.modules() if isinstance(layer, AdaptedLayer)):
        return TOLERANCES[torch.bfloat16]
    return max(TOLERANCES[activation_dtype_of(model)], TOLERANCES[written])


@torch.no_grad()
def check_changes(
    model: PeftModel, adapter_name: str, exported: PeftModel, dtype: torch.dtype
) -> None:
    """Check the change of each weight in a LoRA that was read back, written in `dtype`.

    Raises:
        UserError: one differs.
    """
    modules = dict(exported.get_base_model().named_modules())
    for name, layer in layers_with(model.get_base_model(), adapter_name).items():
        # Of grouped convolutions PEFT cannot tell the change; their logits are compared.
        if layer.lora_groups() > 1:
            continue
        expected = layer.get_delta_weight(adapter_name).cpu()
        found: Tensor = torch.zeros(())
        lora: Any = modules[name]
        if isinstance(modules[name], LoraLayer):
            found = lora.get_delta_weight("default").to("cpu", expected.dtype)
        if not (found - expected).norm() <= _CHANGE_TOLERANCES[dtype] * expected.norm():
            raise UserError(
                f"What was written changes {name} otherwise than the adapter does, so it was not "
                "kept; write it in float32."
            )
