"""Merge and unmerge, written once over the factors, and the weights of a merged layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.gathering import in_layout_of, is_sharded
from lora2.tuners.base.layers.layer_contract import LayerContract
from lora2.tuners.base.layers.quantized import is_quantized, plain_linear, values_of_weight


class MergingLayer(LayerContract):
    """A layer that adds the change of an adapter to its base weight, and subtracts it again."""

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.merged_adapters: list[str] = []
        # The factors that each was merged with: an adapter may change until it is unmerged.
        self.merged_factors: dict[str, tuple[Tensor, Tensor]] = {}
        # What a layer with a quantized weight is merged in.
        self.plain_dtype = torch.get_default_dtype()
        # The quantized layer that a merged one has replaced, in a tuple so that nn.Module does not
        # list its tensors as well as those of the merged one.
        self.replaced: tuple[nn.Module, ...] = ()
        # How many modules have the base weight, 0 if that is not known (base.model.weight_owners).
        self.weight_owners = 0
        # The parameters of several modules that merged ones have replaced in this layer, by name.
        self.shared_weights: dict[str, nn.Parameter] = {}

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

    @torch.inference_mode(False)
    @torch.no_grad()
    def check_merge(self, adapter_names: Sequence[str], safe_merge: bool = False) -> None:
        """Check that `merge` will not fail, before any layer of a model is changed.

        Raises:
            UserError: as `merge`.
            ValueError: as `merge`.
        """
        for name in adapter_names:
            if not self.has_adapter(name) or name in self.merged_adapters:
                continue
            self.check_takes_changes(name)
            if safe_merge:
                B, A = self.factors(name)
                self._check_finite(name, self._merged_values(name, self.in_weight_layout(B @ A)))

    def unmerge(self) -> None:
        """Subtract what merging added; what a merge replaced is put back as it was.

        That is a quantized layer, or a parameter that another module has too.
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self._restore_replaced()
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            B, A = self.merged_factors.pop(name)
            self._add_to_weight(name, -B, A, check=False)

    def write_weights(self, base: Any, values: dict[str, Tensor]) -> None:
        """Write merged weights in place, by name.

        A weight that other modules have too becomes a parameter of the base layer alone.
        """
        is_own = self.weight_owners == 1 or bool(self.shared_weights or self.replaced)
        shared = {}
        for name, new in values.items():
            weight = getattr(base, name)
            # An inference tensor is read-only, and an engine may have put a tensor in front of the
            # parameter.
            if is_own and base._parameters.get(name) is weight and not weight.is_inference():
                weight.copy_(new)
                continue
            if self.weight_owners > 1 and not is_own:
                shared[name] = weight
            setattr(base, name, nn.Parameter(new, requires_grad=weight.requires_grad))
        self.shared_weights |= shared

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
        self.check_takes_changes(name)
        merged = self._merged_values(name, self.in_weight_layout(B @ A))
        if check:
            self._check_finite(name, merged)
        if is_quantized(base):
            self.replaced, self.base_layer = (base,), plain_linear(base, merged["weight"])
        else:
            self.write_weights(base, merged)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _restore_replaced(self) -> None:
        """Put back what merges have replaced: the layer is then unmerged. Otherwise do nothing."""
        if self.replaced:
            (quantized,) = self.replaced
            # A `to` in between has not moved it.
            self.base_layer = quantized.to(self.weight.device).train(self.training)
            self.replaced = ()
        elif self.shared_weights:
            base = self.get_base_layer()
            for name, weight in self.shared_weights.items():
                setattr(base, name, weight)
            self.shared_weights = {}
        else:
            return
        self.merged_adapters.clear()
        self.merged_factors.clear()

    def check_takes_changes(self, adapter_name: str) -> None:
        """Check that the weights are ones that a change can be added to.

        Raises:
            UserError: a weight is split over several processes, quantized below another method's
                adapters, or computed from other parameters.
        """
        base: Any = self.get_base_layer()
        if self.split is None and any(
            is_sharded(getattr(base, name)) for name in self.weight_names()
        ):
            raise UserError(
                f"Adapter {adapter_name!r} cannot be merged into a weight that is split over "
                "several processes: call save_pretrained in all of them, load the adapter on a "
                "base model in one process, and merge there."
            )
        quantized = is_quantized(base)
        if not quantized:
            self._check_holds_weights(adapter_name, base)
        if quantized and base is not self.base_layer:
            raise UserError(
                f"Adapter {adapter_name!r} cannot be merged into a quantized weight that another "
                f"method's adapters are on, too ({type(self.base_layer).__name__}): unload those "
                "first."
            )

    def _check_finite(self, adapter_name: str, merged: dict[str, Tensor]) -> None:
        # These are PEFT's words.
        if not all(torch.isfinite(values).all() for values in merged.values()):
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be "
                "broken"
            )

    def _merged_values(self, adapter_name: str, change: Tensor) -> dict[str, Tensor]:
        """Return the base layer's weights by name, plus a change that is laid out as they are.

        Raises:
            UserError: a weight is quantized in a way that cannot be undone.
        """
        changes = self.by_weight(change)
        return {name: self._sum(adapter_name, name, part) for name, part in changes.items()}

    def _check_holds_weights(self, adapter_name: str, base: Any) -> None:
        """Check that the weights are what the base layer holds, not what it computes of it."""
        held = getattr(base, "_parameters", None)
        for name in self.weight_names():
            if held is not None and name not in held and name not in base._buffers:
                raise UserError(
                    f"Adapter {adapter_name!r} cannot be merged into the {name} of a "
                    f"{type(base).__name__}, which is computed from other parameters: before the "
                    "adapter is added, call on the layer what undoes that in torch.nn.utils "
                    "(parametrize.remove_parametrizations, remove_weight_norm, "
                    "remove_spectral_norm or prune.remove), or leave the adapter unmerged."
                )

    def _sum(self, adapter_name: str, weight_name: str, change: Tensor) -> Tensor:
        base: Any = self.get_base_layer()
        weight = values_of_weight(base, weight_name)
        if weight is None:
            stored = getattr(base, weight_name)
            raise UserError(
                f"Adapter {adapter_name!r} cannot be merged into a {type(stored).__name__} of "
                f"dtype {stored.dtype}: load the base model without quantization to merge."
            )
        # Summed in the wider dtype, so that a half-precision weight is rounded once, not twice.
        merged = weight + in_layout_of(change, weight)
        return merged.to(self.plain_dtype if is_quantized(base) else weight.dtype)
