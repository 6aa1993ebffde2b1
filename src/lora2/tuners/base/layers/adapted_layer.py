"""What all adapted layers share: forward, merge and unmerge, each written once over the factors."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.mathematics.precision import in_full_precision
from lora2.tuners.base.distributed.tensor_parallel import Split
from lora2.tuners.base.layers import merging
from lora2.tuners.base.layers.base_attributes import BaseAttributes
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with
from lora2.tuners.base.layers.quantized import is_quantized, plain_linear
from lora2.tuners.base.layers.scaling import ScaledLayer
from lora2.tuners.base.names.adapter_names import BASE_ONLY
from lora2.tuners.base.offloading import loaded_weight


class AdaptedLayer(nn.Module, BaseAttributes, ScaledLayer):
    """A frozen base layer and, per adapter, a change B A of its weight.

    What kind of layer is adapted (`lora2.tuners.base.layers.linear`, ...) is one subclass, and how
    an adapter makes its two factors (`lora2.tuners.lora2.layer`, ...) another; a layer is both.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adapter_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        # The factors that each was merged with: an adapter may change until it is unmerged.
        self.merged_factors: dict[str, tuple[Tensor, Tensor]] = {}
        # What a layer with a quantized weight is merged in.
        self.plain_dtype = torch.get_default_dtype()
        # The quantized layer that a merged one has replaced, in a tuple so that nn.Module does not
        # list its tensors as well as those of the merged one.
        self.replaced: tuple[nn.Module, ...] = ()
        # How tensor parallelism has split the base weight over processes.
        self.split: Split | None = None
        # How many modules have the base weight, 0 if that is not known (base.model.sharing).
        self.weight_owners = 0
        # The parameters of several modules that merged ones have replaced in this layer, by name.
        self.shared_weights: dict[str, nn.Parameter] = {}

    # What the kind of base layer defines

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(d_out, d_in) of the weight of such a base layer, seen as a matrix."""
        raise NotImplementedError

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """Output that the weight B A alone would give for the input x."""
        raise NotImplementedError

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """A [d_out, d_in] matrix in the layout of the base layer's weight."""
        raise NotImplementedError

    def weight_names(self) -> tuple[str, ...]:
        """The names of the base layer's parameters that the change is of."""
        return ("weight",)

    def by_weight(self, change: Tensor) -> dict[str, Tensor]:
        """A change in the layout of the base layer's weight, by the name of each parameter."""
        return {"weight": change}

    def layers_inside(self) -> tuple[tuple[nn.Module, str], ...]:
        """Parents and names of layers in the base layer that are adapted with it."""
        return ()

    @property
    def has_own_forward(self) -> bool:
        """Whether the base layer computes something else, or more, than its kind does.

        Its output is then that of the changed weight, not the base output plus the adapter's.
        """
        return False

    def activation_dtype(self, x: Tensor) -> torch.dtype:
        """Dtype in which products with x are taken: autocast lowers all but float64."""
        device = x.device.type
        if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
            return x.dtype
        return torch.get_autocast_dtype(device)

    def lora_groups(self) -> int:
        """A PEFT LoRA of rank r on this layer holds a change of rank r / groups."""
        return 1

    def as_lora(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """The tensors of the PEFT LoRA whose change is B A, by their names in the layer.

        Raises:
            UserError: PEFT's LoRA computes something else on such a layer.
        """
        return {"lora_A.weight": A, "lora_B.weight": B}

    @classmethod
    def from_lora(cls, lora: Any, adapter_name: str, module_name: str) -> tuple[Tensor, Tensor]:
        """(B, A) of a PEFT LoRA layer on such a base layer, scaling left aside: undoes `as_lora`.

        Raises:
            UserError: PEFT's LoRA computes something else on such a layer.
        """
        return lora.lora_B[adapter_name].weight, lora.lora_A[adapter_name].weight

    @property
    def stores_transposed(self) -> bool:
        """Whether the weight is stored as [d_in, d_out], which PEFT calls fan_in_fan_out."""
        return False

    # What the method defines

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter."""
        raise NotImplementedError

    def has_effect(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter, and it is not an empty one."""
        return self.has_adapter(adapter_name)

    def factors(self, adapter_name: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return (B [d_out, k], A [k, d_in]): the adapter changes the weight by B A.

        Computed in `dtype`, or in the stored tensors' own, float32 at least.
        """
        raise NotImplementedError

    def forward_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return `factors` for a forward pass, which a method may have made ready before."""
        return self.factors(adapter_name)

    def prunable(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """The values [r] that pruning makes zero, and a factor [r, ·] with a row for each."""
        raise NotImplementedError

    # What follows from them

    def matrix_shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the weight seen as a matrix."""
        return self.shape_of(self.get_base_layer())

    @property
    def is_quantized(self) -> bool:
        """Whether the base layer is quantized, or was before a merge."""
        return bool(self.replaced) or is_quantized(self.get_base_layer())

    def tensors_of(self, adapter_name: str) -> list[nn.Parameter]:
        """Return the tensors of one adapter in this layer."""
        held: Any = (getattr(self, name) for name in self.adapter_layer_names)
        return [tensors[adapter_name] for tensors in held]

    def tensors_by_adapter(self) -> Any:
        """Return tensors of this layer by the name of their adapter, one of each."""
        return getattr(self, self.adapter_layer_names[0])

    def identity_of(self, adapter_name: str) -> object:
        """Return what an adapter keeps for its life, and another of the same name does not have."""
        return self.adapter_dropout[adapter_name]

    def trains(self, adapter_name: str) -> bool:
        """Whether an adapter of this layer is active, enabled and has a trainable parameter."""
        if self.disable_adapters or adapter_name not in self.active_adapters:
            return False
        return any(tensor.requires_grad for tensor in self.tensors_of(adapter_name))

    def add_dropout(self, adapter_name: str, probability: float) -> None:
        """Drop inputs of the adapter with this probability, in training."""
        dropout = nn.Dropout(probability) if probability else nn.Identity()
        self.adapter_dropout[adapter_name] = dropout

    def drops_inputs(self, adapter_name: str) -> bool:
        """Whether the next forward pass drops inputs of the adapter."""
        dropout = self.adapter_dropout[adapter_name]
        return type(dropout) is not nn.Identity and dropout.training

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return the change of the weight, in its layout and in float32 or wider."""
        B, A = self.factors(adapter)
        return self.in_weight_layout(B @ A)

    def changed_weights(self, adapter_names: list[str]) -> list[ChangedWeight]:
        """The base layer's weights with the change of these adapters; none without adapters."""
        base: Any = self.get_base_layer()
        changed: dict[str, Tensor] = {}
        for adapter_name in adapter_names:
            B, A = self.forward_factors(adapter_name)
            with torch.autocast(A.device.type, enabled=False):
                # Prepared factors may have been rounded to the dtype of the activations.
                change = self.in_weight_layout(in_full_precision(B) @ in_full_precision(A))
            for name, part in self.by_weight(change).items():
                own = loaded_weight(base, name)
                changed[name] = changed.get(name, own) + part.to(own.device)
        return [
            ChangedWeight(base, name, weight.to(getattr(base, name).dtype))
            for name, weight in changed.items()
        ]

    def difference_by_weight(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """What the change B A of the weight adds to the output of a forward of its own."""
        base: Any = self.get_base_layer()
        weight = (base.weight + self.in_weight_layout(B @ A)).to(base.weight.dtype)
        output: Tensor = call_with(base, [ChangedWeight(base, "weight", weight)], x)
        return output - base(x)

    def adapter_output(self, x: Tensor, adapter_name: str) -> Tensor:
        """What one adapter adds to the output. Factors are cast to the activations, not back."""
        with torch.autocast(x.device.type, enabled=False):
            pair = self.forward_factors(adapter_name)
        B, A = (factor.to(self.activation_dtype(x)) for factor in pair)
        x = self.adapter_dropout[adapter_name](x) if x.is_floating_point() else x
        return self.apply_factors(x, B, A)

    # Forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output plus the output of every active adapter."""
        adapter_names = kwargs.pop("adapter_names", None)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, adapter_names, *args, **kwargs)
        return self.adapted_output(x, self.effective_adapters(), *args, **kwargs)

    def effective_adapters(self) -> list[str]:
        """The active adapters that are not in the base weight; none if adapters are disabled."""
        if self.disable_adapters or self.merged:
            return []
        return [name for name in self.active_adapters if self.has_effect(name)]

    def adapted_output(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Base output plus that of the named adapters; of a forward of its own, by its weight."""
        if (
            adapter_names
            and self.has_own_forward
            and not any(map(self.drops_inputs, adapter_names))
        ):
            weights = self.changed_weights(adapter_names)
            return call_with(self.base_layer, weights, x, *args, **kwargs)
        result: Any = self.base_layer(x, *args, **kwargs)
        if not isinstance(result, Tensor):
            # Some subclasses of nn.Linear return more, such as routers, which return their choice.
            if not adapter_names:
                return result
            weights = self.changed_weights(adapter_names)
            return call_with(self.base_layer, weights, x, *args, **kwargs)
        if torch.is_grad_enabled() and x.requires_grad and not result.requires_grad:
            base: Any = self.get_base_layer()
            raise UserError(
                f"Adapters {adapter_names} cannot be trained on a {type(base).__name__} with a "
                f"{type(base.weight).__name__}, which passes no gradient on to its input: quantize "
                "the weights only, not the activations."
            )
        for name in adapter_names:
            result = result + self.adapter_output(x, name).to(result.dtype)
        return result

    def _mixed_batch_forward(
        self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any
    ) -> Tensor:
        if self.merged:
            # PEFT's own sentences, which programs may look for.
            raise UserError(
                "Cannot pass `adapter_names` when there are merged adapters, please call "
                "`unmerge_adapter` first."
            )
        if len(adapter_names) != len(x):
            raise UserError(
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively: give one name for each row."
            )
        output: Any = self.base_layer(x, *args, **kwargs)
        if not isinstance(output, Tensor):
            raise UserError(
                f"adapter_names: one batch cannot have several adapters on a "
                f"{type(self.get_base_layer()).__name__}, which returns more than one tensor; call "
                "the model once for each adapter, after set_adapter."
            )
        result = output.clone()
        for name in sorted(set(adapter_names) - {BASE_ONLY}):
            if self.has_effect(name):
                rows = [row for row, wanted in enumerate(adapter_names) if wanted == name]
                result[rows] += self.adapter_output(x[rows], name).to(result.dtype)
        return result

    # Merge and unmerge

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the change of the named (or active) adapters to the base weight.

        The parameter stays the same object and is written in place, unless another module has it
        too, such as a tied head: then this layer has a parameter of its own until it is unmerged.
        A quantized layer gives way to a plain nn.Linear with the sum, in the dtype that the model
        computes in, and is kept for unmerging. Quantized again, the sum would lose most of the
        change, which is smaller than a step of a 4-bit grid (docs/how-to/quantized.md).

        Raises:
            UserError: the base weight is quantized in a way that cannot be undone, or is split over
                several processes.
            ValueError: `safe_merge` and the merged weight holds NaN or infinity; the weight is
                left as it was.
        """
        for name in check_adapters_to_merge(self, adapter_names) or []:
            if self.has_adapter(name):
                B, A = self._copied_factors(name)
                self._add_to_weight(name, B, A, check=safe_merge)
                self.merged_adapters.append(name)
                self.merged_factors[name] = B, A

    def unmerge(self) -> None:
        """Subtract what merging added; what a merge replaced is put back as it was.

        That is a quantized layer, or a parameter that another module has too.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        merging.restore_replaced(self)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            B, A = self.merged_factors.pop(name)
            self._add_to_weight(name, -B, A, check=False)

    # Under the caller's inference mode, new tensors would be of no use in a later training step.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _copied_factors(self, name: str) -> tuple[Tensor, Tensor]:
        B, A = self.factors(name)
        return B.clone(), A.clone()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _add_to_weight(self, name: str, B: Tensor, A: Tensor, *, check: bool) -> None:
        base: Any = self.get_base_layer()
        merged = merging.merged_values(self, name, self.in_weight_layout(B @ A))
        if check and not all(torch.isfinite(values).all() for values in merged.values()):
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
            )
        if is_quantized(base):
            self.replaced, self.base_layer = (base,), plain_linear(base, merged["weight"])
        else:
            self.write_weights(base, merged)

    def write_weights(self, base: Any, values: dict[str, Tensor]) -> None:
        """Write merged weights into the base layer, by name."""
        merging.write_weights(self, base, values)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: the change is B A, a LoRA of rank k."""
        return True
