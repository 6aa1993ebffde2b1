"""Weights of experts, which are parameters of one module: one adapted matrix for each expert.

transformers stores the weights of all experts of a layer as parameters [experts, ., .] of one
module, which reads them as it likes. So an adapter cannot compute beside them: each forward pass
gives the module the weights with their change, as PEFT's LoRA does. PEFT nests one module for each
parameter around the experts; here one module holds the matrices of all of them and hands all
changed weights to one call, so that no name depends on the order of the parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lora2.errors import OtherModelError, UserError
from lora2.mathematics.precision import FLOATING, without_autocast
from lora2.mathematics.transforms import is_traced
from lora2.tuners.base.distributed.gathering import is_sharded
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with
from lora2.tuners.base.names.compiled_names import name_in_state_dict
from lora2.tuners.base.names.peft_names import PREFIX
from lora2.tuners.base.offloading import execution_device

# mlp.experts.matrices.gate_up_proj.3 is the matrix of expert 3 in the parameter gate_up_proj.
_TENSOR = re.compile(r"^(.*\bmatrices\.[^.]+)\.(\d+)\.")
_MATRIX = re.compile(r"^(?:(.*)\.)?matrices\.([^.]+)\.\d+$")


class ExpertWeight:
    """One expert's matrix in a parameter, with what a layer reads from its base layer.

    Attributes:
        module: the module that has the parameter.
        parameter_name: the parameter's name there.
        index: of the expert; None if the parameter is one matrix, such as a router's.
    """

    def __init__(self, module: nn.Module, parameter_name: str, index: int | None) -> None:
        self.module, self.parameter_name, self.index = module, parameter_name, index

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds this matrix."""
        parameter: nn.Parameter = getattr(self.module, self.parameter_name)
        return parameter

    @property
    def weight(self) -> Tensor:
        """The matrix, a view of the parameter."""
        return self.parameter if self.index is None else self.parameter[self.index]

    @property
    def is_transposed(self) -> bool:
        """Whether the matrix is stored as [d_in, d_out], as PEFT decides it."""
        return self.index is not None and bool(getattr(self.module, "is_transposed", False))

    def write(self, values: Tensor) -> None:
        """Write the matrix into the parameter, in place unless inference mode made it read-only."""
        if self.parameter.is_inference():
            copied = nn.Parameter(self.parameter.clone(), self.parameter.requires_grad)
            setattr(self.module, self.parameter_name, copied)
        self.weight.copy_(values)


class ExpertMatrix(AdaptedLayer):
    """The part of an adapted layer that knows it is one expert's matrix, and is never called."""

    @staticmethod
    def shape_of(base: ExpertWeight) -> tuple[int, int]:
        """(d_out, d_in)."""
        rows, columns = base.parameter.shape[-2:]
        return (columns, rows) if base.is_transposed else (rows, columns)

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[d_out, d_in], transposed if the parameter is stored so."""
        base: Any = self.get_base_layer()
        return matrix.mT if base.is_transposed else matrix

    def activation_dtype(self, x: Tensor) -> torch.dtype:
        """The dtype of the weight: a change is added to it, whatever autocast does later."""
        return x.dtype

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The module around the experts is called in place of their matrices."""
        raise NotImplementedError

    def add_dropout(self, adapter_name: str, probability: float) -> None:
        """Refuse to drop inputs, of which the change of a weight knows nothing.

        Raises:
            UserError: the probability is not 0.
        """
        if probability:
            base: Any = self.get_base_layer()
            raise UserError(
                f"lora_dropout={probability} drops inputs of the adapter, and the change of the "
                f"parameter {base.parameter_name} is added to the weight: write lora_dropout=0, or "
                "target_parameters=[] to adapt modules alone."
            )
        super().add_dropout(adapter_name, probability)

    def effective_adapters(self) -> list[str]:
        """Return the names of the adapters whose change a forward pass adds."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        return super().effective_adapters()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: PEFT's conversion knows modules alone; `lora2.export_lora` knows parameters."""
        return False

    def check_takes_changes(self, adapter_name: str) -> None:
        """Check that the parameter is of this module alone, and as for other layers."""
        if self.weight_owners > 1:
            base: Any = self.get_base_layer()
            raise UserError(
                f"{base.parameter_name} of a {type(base.module).__name__} is the weight of several "
                "modules, and a change of one of them cannot be merged: leave the adapter unmerged."
            )
        super().check_takes_changes(adapter_name)

    def write_weights(self, base: Any, values: dict[str, Tensor]) -> None:
        """Write the matrix."""
        base.write(values["weight"])


class ExpertsLayer(nn.Module):
    """A module some of whose parameters have adapters, one for each of their matrices.

    Attributes:
        base_layer: the module.
        matrices: lists of `ExpertMatrix`, one for each expert, by the name of the parameter.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.matrices = nn.ModuleDict()

    def matrices_of(
        self, parameter_name: str, make: Callable[[Any], ExpertMatrix]
    ) -> nn.ModuleList:
        """Return the matrices of a parameter, made without an adapter if there are none yet.

        Raises:
            UserError: the parameter is not of a kind that can be adapted.
        """
        if parameter_name not in self.matrices:
            _check_can_be_adapted(self.base_layer, parameter_name)
            shape = getattr(self.base_layer, parameter_name).shape
            indices: Iterable[int | None] = range(shape[0]) if len(shape) == 3 else [None]
            weights = (ExpertWeight(self.base_layer, parameter_name, index) for index in indices)
            self.matrices[parameter_name] = nn.ModuleList(map(make, weights))
        matrices: Any = self.matrices[parameter_name]
        return matrices

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes with the changed weights."""
        matrices: Any
        changed = {}
        for name, matrices in self.matrices.items():
            weight = _with_changes(getattr(self.base_layer, name), list(matrices))
            if weight is not None:
                changed[name] = weight
        if not changed:
            return self.base_layer(*args, **kwargs)
        if is_traced():
            # `functional_call` refuses the modules that torch.jit.trace puts in their place.
            weights = [ChangedWeight(self.base_layer, name, new) for name, new in changed.items()]
            return call_with(self.base_layer, weights, *args, **kwargs)
        # Not `call_with`, which torch 2.8 does not compile without a graph break.
        return functional_call(self.base_layer, changed, args, kwargs)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the module, by PEFT's name for it, with the adapters' change if `merge`."""
        if merge:
            for matrix in self.matrices.modules():
                if isinstance(matrix, ExpertMatrix):
                    matrix.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        # PEFT does not find the layers inside any more, once this one has given way.
        _unload_inside(self.base_layer, merge, safe_merge, adapter_names)
        return self.base_layer

    def __getattr__(self, name: str) -> Any:
        """Models read parameters and sizes from their experts and routers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # What begins so is torch's and other libraries' own state of one module.
            if name.startswith("_") or name in ("base_layer", "parametrizations"):
                raise
        return getattr(self.base_layer, name)


def matrix_name(parameter: str, index: int) -> str:
    """Return the name of the module of one matrix of a parameter."""
    module_name, _, own = parameter.rpartition(".")
    return f"{module_name}.matrices.{own}.{index}"


def parameter_of(module_name: str) -> str | None:
    """Return the name of the parameter in which the module of this name is an expert's matrix."""
    found = _MATRIX.match(module_name)
    return None if found is None else ".".join(part for part in found.groups() if part)


def name_in_config(layer_name: str) -> str:
    """Return the name by which fields such as exclude_modules choose an adapted layer.

    layer_name: in the model, or in a model around it, such as a PeftModel.
    """
    name = name_in_state_dict(layer_name).rpartition(PREFIX)[2]
    return parameter_of(name) or name


def check_number_of_experts(model: nn.Module, adapter_name: str, saved: Iterable[str]) -> None:
    """Check that a saved adapter is of as many experts as the model has.

    saved: the names of its tensors, as the model has them.

    Raises:
        UserError: it is of more or fewer.
    """
    numbers: dict[str, int] = {}
    for name in saved:
        found = _TENSOR.match(name)
        if found:
            parameter, index = found.groups()
            numbers[parameter] = max(numbers.get(parameter, 0), int(index) + 1)
    for name, module in model.named_modules():
        of_parameters: Any = module.matrices.items() if isinstance(module, ExpertsLayer) else ()
        for own, matrices in of_parameters:
            number = numbers.get(f"{name}.matrices.{own}", len(matrices))
            lacks = any(matrix.has_adapter(adapter_name) for matrix in matrices[number:])
            if number > len(matrices) or lacks:
                raise OtherModelError(
                    f"model: the adapter is of {number} experts in {name}.{own}, and this model "
                    f"has {len(matrices)}; give the model that it was trained on."
                )


def split_targets(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which of the names of layers are modules, and of which parameters the others are."""
    parameters = {name: parameter_of(name) for name in names}
    modules = [name for name, parameter in parameters.items() if parameter is None]
    return modules, sorted({parameter for parameter in parameters.values() if parameter})


def _unload_inside(
    module: nn.Module, merge: bool, safe_merge: bool, adapter_names: list[str] | None
) -> None:
    """Put the base layers back, merged if `merge`, in place of all adapted ones in a module."""
    for name, child in list(module.named_children()):
        layer: Any = child
        if hasattr(layer, "unload_and_optionally_merge_module"):
            unloaded = layer.unload_and_optionally_merge_module(merge, safe_merge, adapter_names)
            setattr(module, name, unloaded)
        elif isinstance(layer, AdaptedLayer):
            if merge:
                layer.merge(safe_merge, adapter_names)
            setattr(module, name, layer.get_base_layer())
        else:
            _unload_inside(child, merge, safe_merge, adapter_names)


def _with_changes(weight: Tensor, matrices: list[ExpertMatrix]) -> Tensor | None:
    """Return a parameter with its matrices' changes; None if there are none."""
    pairs = [_joint_factors(matrix) for matrix in matrices]
    width = max(len(pair[1]) for pair in pairs if pair is not None) if any(pairs) else 0
    if not width:
        return None
    sizes = matrices[0].matrix_shape()
    V, A = (
        torch.stack([_padded(pair and pair[side], width, sizes[side], weight) for pair in pairs])
        for side in (0, 1)
    )
    stack = weight if weight.dim() == 3 else weight.unsqueeze(0)
    base: Any = matrices[0].get_base_layer()
    first, second = (A.mT, V) if base.is_transposed else (V.mT, A)
    # In the weight's own dtype, as the sum must have it.
    with without_autocast(weight):
        return torch.baddbmm(stack, first, second).view(weight.shape)


def _joint_factors(matrix: ExpertMatrix) -> tuple[Tensor, Tensor] | None:
    """Return (Bᵀ [k, d_out], A [k, d_in]) of all adapters in use, one below another."""
    names = matrix.effective_adapters()
    if not names:
        return None
    with without_autocast(matrix.weight):
        pairs = [matrix.forward_factors(name) for name in names]
    if len(pairs) == 1:
        B, A = pairs[0]
        return B.mT, A
    return torch.cat([B.mT for B, _ in pairs]), torch.cat([A for _, A in pairs])


def _padded(factor: Tensor | None, rows: int, columns: int, weight: Tensor) -> Tensor:
    """Return a factor [k, columns] in the weight's dtype, with rows of zeros below it."""
    if factor is None:
        return weight.new_zeros(rows, columns)
    missing = rows - len(factor)
    factor = factor.to(weight.dtype)
    return F.pad(factor, (0, 0, 0, missing)) if missing else factor


def _check_can_be_adapted(module: nn.Module, name: str) -> None:
    parameter = module._parameters.get(name)
    what = f"target_parameters: {name} of a {type(module).__name__}"
    if parameter is None:
        raise UserError(f"{what} is no plain parameter (it may be parametrized); leave it out.")
    if parameter.dim() not in (2, 3):
        raise UserError(
            f"{what} has {parameter.dim()} dimensions; name a matrix [d_out, d_in] or the weights "
            "of experts, [experts, ., .]."
        )
    if is_sharded(parameter):
        raise UserError(
            f"{what} is split over several processes, and an adapter must be added before that."
        )
    if type(parameter) is not nn.Parameter or parameter.dtype not in FLOATING:
        raise UserError(
            f"{what} is a {type(parameter).__name__} of dtype {parameter.dtype}, and a quantized "
            "parameter cannot be adapted: leave it out, or load the model without quantization."
        )
    if execution_device(module) is not None:
        raise UserError(
            f"{what} is offloaded, and an adapter needs the weights of experts in memory: give "
            "the model a device_map that keeps them on a device, or leave them out."
        )
