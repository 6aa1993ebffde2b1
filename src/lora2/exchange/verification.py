"""Whether what was written computes what the trained model does.

The logits of both are compared, in the dtype that the model computes in; and of a LoRA the change
of each weight as well, since half precision may round away an adapter's whole effect on logits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.exchange.expert_form import factors_by_matrix
from lora2.exchange.sample_batch import sample_batches
from lora2.support.error_text import first_line_of
from lora2.tuners.base.finite_checks import check_finite_output
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.experts import matrix_name
from lora2.tuners.base.layers.finding import adapted_layers, modules_of_type
from lora2.tuners.base.layers.quantized import plain_dtypes

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
# What models raise for inputs of another kind or shape.
_NOT_TAKEN = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    AssertionError,
    NotImplementedError,
)


def sample_batch(model: nn.Module) -> dict[str, Tensor]:
    """Return inputs for a transformers model, made from its configuration.

    Raises:
        UserError: a model that takes something else.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    reasons = []
    for batch in sample_batches(inner):
        try:
            _output(model, batch)
        except _NOT_TAKEN as error:
            reasons.append(first_line_of(error))
        else:
            return batch
    # The inputs that reach most of the model come first.
    reason = reasons[0] if reasons else "it has no configuration of transformers"
    raise UserError(
        f"batch: what the forward of a {type(inner).__name__} takes is not known here ({reason}); "
        "pass inputs of it as batch={name: tensor, ...}, to compare the export on."
    )


def copy_sharing_weights(model: nn.Module) -> Any:
    """Return a copy of a model whose tensors share its memory: what it costs is Python.

    Adapters can be switched, unloaded and loaded in it, and the original stays as it is.
    """
    memo: dict[int, Any] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        # Its own Parameter, for its own requires_grad. Of quantized ones the class matters more.
        plain = type(tensor) is nn.Parameter
        memo[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False) if plain else tensor
    for module in model.modules():
        for value in vars(module).values():
            # What a recurrent module keeps of its last call has a graph, which cannot be copied.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach()
    return copy.deepcopy(model, memo).eval()


def adapter_logits(
    model: nn.Module, adapter_name: str, batch: Batch | None
) -> tuple[Tensor, Batch, Any]:
    """Return what the model computes with this adapter alone, from what, and its base model.

    batch: inputs of the model; made up if there are none.

    Raises:
        UserError: an adapter is merged, so that the base model is not there; or what the model
            takes is not known.
        NumericalError: the model computes NaN or infinity.
    """
    # No adapter may be merged: the copy shares the weights, so unmerging it would change them.
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer) and layer.merged:
            raise UserError(
                f"adapter {layer.merged_adapters[0]!r} is merged: unmerge it before the export."
            )
    copied = copy_sharing_weights(model)
    copied.set_adapter(adapter_name)
    copied.base_model.enable_adapter_layers()
    batch = sample_batch(copied) if batch is None else batch
    return logits(copied, batch), batch, copied.unload()


def logits(model: Any, batch: Batch) -> Tensor:
    """Return a model's logits for a batch, else its first output; float32 or wider.

    Raises:
        NumericalError: naming the layer that computes NaN or infinity.
    """
    result = _output(model, batch)
    check_finite_output(result, model, partial(_output, model, batch))
    return result


@torch.no_grad()
def _output(model: Any, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    moves = {} if device.type == "meta" else {"device": device}  # offloaded: its hooks move inputs
    # Some models draw random numbers in evaluation, too, such as masks.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        if isinstance(batch, Tensor):
            output = model(batch.to(**moves))
        else:
            output = model(
                **{n: v.to(**moves) if isinstance(v, Tensor) else v for n, v in batch.items()}
            )
    parts = [output] if isinstance(output, Tensor) else _logits_in(output)
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    # Most models have one kind of logits and keep its shape.
    return (
        parts[0].to(dtype) if len(parts) == 1 else torch.cat([p.flatten().to(dtype) for p in parts])
    )


def _logits_in(output: Any) -> list[Tensor]:
    """Return all logits of an output, such as those of start and end; or its first tensor."""
    if not isinstance(output, Mapping):
        return [output.logits if hasattr(output, "logits") else output[0]]
    found = [
        value
        for name, value in output.items()
        if "logits" in name and isinstance(value, Tensor) and value.is_floating_point()
    ]
    if not found:
        found = [value for value in output.values() if isinstance(value, Tensor)][:1]
    if not found:
        raise UserError(f"the model's output, {', '.join(output)}, holds no tensor to compare.")
    return found


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference of logits, relative to the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def checked_difference(expected: Tensor, found: Tensor, tolerance: float) -> float:
    """Return the largest difference, relative to the largest logit.

    Raises:
        UserError: it is beyond the tolerance.
    """
    difference = relative_difference(expected, found)
    if not difference <= tolerance:
        # Only half precision is given more than float32 is.
        is_half = tolerance > TOLERANCES[torch.float32]
        advice = "; try a model in float32" if is_half else ""
        raise UserError(
            f"What was written computes something else: logits differ by {difference:.1e} of the "
            f"largest, more than {tolerance:.0e}, so it was not kept{advice}."
        )
    return difference


def tolerance_of(model: nn.Module, written: torch.dtype = torch.float32) -> float:
    """Return how far logits may differ, by the dtypes of the model and of what was written.

    A quantized model may compute in half precision, whatever its other weights are.
    """
    if any(layer.is_quantized for layer in modules_of_type(model, AdaptedLayer)):
        return TOLERANCES[torch.bfloat16]
    # Modules that are trained whole may be in float32 where the others compute in half precision.
    dtypes = {written, *plain_dtypes(model)}
    return max(TOLERANCES[dtype] for dtype in dtypes if dtype in TOLERANCES)


@torch.no_grad()
def check_changes(
    model: PeftModel, adapter_name: str, exported: PeftModel, dtype: torch.dtype
) -> None:
    """Check the change of each weight in a LoRA that was read back, written in `dtype`.

    Raises:
        UserError: one differs.
    """
    modules: dict[str, Any] = dict(exported.get_base_model().named_modules())
    of_parameters: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in modules.items():
        if isinstance(module, ParamWrapper):
            of_parameters |= factors_by_matrix(name, module)
    for name, layer in adapted_layers(model.get_base_model(), adapter_name).items():
        # PEFT cannot compute the change of grouped convolutions; their logits are compared.
        if layer.lora_groups() > 1:
            continue
        expected = layer.get_delta_weight(adapter_name).cpu()
        found: Tensor = torch.zeros(())
        # A module beside experts may be written by the name of its weight.
        pair = of_parameters.get(name, of_parameters.get(matrix_name(f"{name}.weight", 0)))
        if pair is not None:
            B, A = pair
            found = layer.in_weight_layout(B @ A).to("cpu", expected.dtype)
        elif isinstance(modules.get(name), LoraLayer):
            found = modules[name].get_delta_weight("default").to("cpu", expected.dtype)
        if not (found - expected).norm() <= _CHANGE_TOLERANCES[dtype] * expected.norm():
            is_half = dtype.itemsize < torch.float32.itemsize
            advice = "write it in float32" if is_half else "export the merged model instead"
            raise UserError(
                f"What was written changes {name} otherwise than the adapter does, so it was not "
                f"kept; {advice}."
            )
