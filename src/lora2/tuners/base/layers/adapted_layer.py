"""What all adapted layers share: forward and the change of the weight, written once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.mathematics.precision import in_full_precision, without_autocast
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with
from lora2.tuners.base.layers.merging import MergingLayer
from lora2.tuners.base.layers.quantized import is_quantized
from lora2.tuners.base.names.adapter_names import BASE_ONLY
from lora2.tuners.base.offloading import loaded_weight


class AdaptedLayer(MergingLayer):
    """A frozen base layer and, per adapter, a change B A of its weight."""

    # What follows from the contract

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

    def first_tensors(self) -> Any:
        """Return the first tensor of each adapter in this layer, by the adapter's name."""
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
            with without_autocast(A):
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
        with without_autocast(x):
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

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: the change is B A, a LoRA of rank k."""
        return True
