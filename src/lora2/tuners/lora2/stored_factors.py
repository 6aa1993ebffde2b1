"""What a layer stores of each adapter: its five factors, and what state dicts have of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lora2.tuners.base.distributed.gathering import multiply, whole
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.lora2.adapter_state import AdapterState
from lora2.tuners.lora2.factor_table import FACTORS, INNER
from lora2.tuners.lora2.matrix_size import MatrixSize
from lora2.tuners.lora2.precise_parameters import PreciseParameters

SCALING = "lora2_scaling"
"""In the state dict of a whole module, the scaling of adapters whose k has become smaller."""


class StoredFactors(AdaptedLayer):
    """The tensors of a layer's adapters, which are resized, frozen, saved and loaded with them."""

    adapter_layer_names = tuple(factor.attribute for factor in FACTORS.values())
    other_param_names = ("adapter_dropout", "lora2_states", "scaling")

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        for symbol, factor in FACTORS.items():
            kind = PreciseParameters if symbol in INNER else nn.ParameterDict
            setattr(self, factor.attribute, kind())
        self.lora2_states: dict[str, AdapterState] = {}

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter."""
        return adapter_name in self.lora2_states

    def identity_of(self, adapter_name: str) -> object:
        """Return the state: loading, resizing and switching an adapter keep it."""
        return self.lora2_states[adapter_name]

    def has_effect(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter and any singular value of it."""
        state = self.lora2_states.get(adapter_name)
        return state is not None and state.r > 0

    @property
    def lora2_scaling(self) -> SimpleNamespace:
        """The scaling of adapters whose k has become smaller, as state dicts have it.

        No buffers: an average of a model's buffers would have other bits. torch's distributed
        checkpoints look for what the names in a state dict name.
        """
        return SimpleNamespace(
            **{
                adapter_name: _as_bits(state.config_scaling)
                for adapter_name, state in self.lora2_states.items()
                if state.is_narrowed
            }
        )

    def initial_scaling(self, adapter_name: str) -> float:
        """Return the factor that the adapter's config gives."""
        return self.lora2_states[adapter_name].config_scaling

    def parameters_of(self, adapter_name: str) -> dict[str, nn.Parameter]:
        """The factors of one adapter as they are stored, by symbol: v as vᵀ [k, d_in]."""
        # This is called for each layer several times in a step, and `__getattr__`, in Python, would
        # cost as much as all other work here.
        held: Any = self._modules
        try:
            return {
                symbol: held[factor.attribute]._parameters[adapter_name]
                for symbol, factor in FACTORS.items()
            }
        except KeyError:
            # A replica of torch's DataParallel has plain tensors in their place.
            return {
                symbol: held[factor.attribute][adapter_name] for symbol, factor in FACTORS.items()
            }

    def prunable(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """The singular values λ [r], and 𝒰 [r, k]."""
        parameters = self.parameters_of(adapter_name)
        return parameters["lam"], parameters["U"]

    def sizes_of(self, adapter_name: str) -> tuple[int, int]:
        """Return (k, r) of one adapter in this layer."""
        state = self.lora2_states[adapter_name]
        return state.k, state.r

    def factor_shape(self, adapter_name: str, symbol: str) -> tuple[int, ...]:
        """Return the shape of a whole factor as it is stored."""
        d_out, d_in = self.matrix_shape()
        k, r = self.sizes_of(adapter_name)
        return FACTORS[symbol].shape(d_in=d_in, d_out=d_out, k=k, r=r)

    def matrix_size(self, adapter_name: str) -> MatrixSize:
        """Return what decides how large one adapter's change of this matrix is."""
        k, r = self.sizes_of(adapter_name)
        return MatrixSize(sum(self.matrix_shape()), k, r)

    def resize_adapter(self, adapter_name: str, k: int, r: int) -> None:
        """Give the adapter's tensors another k and r; their values are then undefined.

        The scaling stays as it is. r = 0 leaves nothing.
        """
        d_out, d_in = self.matrix_shape()
        k = k if r else 0
        state = self.lora2_states[adapter_name]
        state.pruned = state.pruned if r == state.r else None
        state.k, state.r = k, r
        for symbol, old in self.parameters_of(adapter_name).items():
            shape = FACTORS[symbol].shape(d_in=d_in, d_out=d_out, k=k, r=r)
            if old.shape != shape:
                new = nn.Parameter(old.new_zeros(shape), requires_grad=old.requires_grad)
                getattr(self, FACTORS[symbol].attribute)[adapter_name] = new
        self._freeze_if_empty(adapter_name)

    def can_take(self, adapter_name: str, k: int, r: int) -> bool:
        """Whether factors of this k and r may replace those of an adapter, whose scaling stays.

        Another k is one that a pruned or cut adapter has had: its first, or compact.
        """
        state = self.lora2_states[adapter_name]
        was_larger = state.is_finished or state.is_narrowed
        return k == state.k or (was_larger and k <= state.first_k and k in (r, state.first_k))

    def set_adapter(self, adapter_names: Any, inference_mode: bool = False) -> None:
        """Make these adapters active, and trainable unless in inference mode."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for adapter_name, state in self.lora2_states.items():
            state.was_frozen_empty = False
            self._freeze_if_empty(adapter_name)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Train these adapters, or do not; one without singular values is never trained."""
        super().set_requires_grad(adapter_names, requires_grad)
        for adapter_name in {adapter_names} if isinstance(adapter_names, str) else adapter_names:
            state = self.lora2_states.get(adapter_name)
            if state is not None:
                state.was_frozen_empty = False
                self._freeze_if_empty(adapter_name)

    def _freeze_if_empty(self, adapter_name: str) -> None:
        """Stop training an adapter that has no singular value here, until it has some again."""
        state = self.lora2_states[adapter_name]
        parameters = self.parameters_of(adapter_name).values()
        if state.r > 0:
            if state.was_frozen_empty:
                state.was_frozen_empty = False
                for parameter in parameters:
                    parameter.requires_grad_(True)
            return
        if any(parameter.requires_grad for parameter in parameters):
            state.was_frozen_empty = True
        # A parameter that no loss reaches would make DistributedDataParallel wait for it.
        for parameter in parameters:
            parameter.requires_grad_(False)

    def release_pruned(self, adapter_name: str) -> None:
        """Let values that were pruned be trained again; they start at zero."""
        self._clear_pruned(adapter_name)
        self.lora2_states[adapter_name].pruned = None

    @torch.no_grad()
    def _clear_pruned(self, adapter_name: str) -> None:
        """Make the values zero that count as zero."""
        pruned = self.lora2_states[adapter_name].pruned
        if pruned is not None:
            lam = self.parameters_of(adapter_name)["lam"]
            multiply([lam], [~pruned.to(lam.device)])

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for adapter_name, bits in vars(self.lora2_scaling).items():
            destination[f"{prefix}{SCALING}.{adapter_name}"] = bits
        # A state dict does not hold the mask.
        for adapter_name in self.lora2_states:
            self._clear_pruned(adapter_name)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the sizes that a state dict has: a whole module's may be of a pruned adapter."""
        for adapter_name, state in self.lora2_states.items():
            own = self.parameters_of(adapter_name)["u"]
            saved = state_dict.get(f"{prefix}{FACTORS['u'].attribute}.{adapter_name}")
            if saved is None:
                continue
            scaling = state_dict.pop(f"{prefix}{SCALING}.{adapter_name}", None)
            # What is loaded may have kept other values.
            lam = state_dict.get(f"{prefix}{FACTORS['lam'].attribute}.{adapter_name}")
            state.pruned = _still_pruned(state.pruned, lam)
            if scaling is not None:
                state.config_scaling = self.scaling[adapter_name] = _from_bits(scaling)
                state.is_narrowed = True
                self.resize_adapter(adapter_name, *saved.shape)
            # A sharded or partitioned factor has another shape; a wrong k is an error of torch.
            elif own.dim() == saved.dim() == 2 and self.can_take(adapter_name, *saved.shape):
                self.resize_adapter(adapter_name, *saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _still_pruned(pruned: Tensor | None, lam: Tensor | None) -> Tensor | None:
    """Return which of the pruned values [r] are zero in λ as it is loaded; None if none is."""
    if pruned is None or lam is None or lam.is_meta or lam.shape != pruned.shape:
        return None
    # A zero elsewhere was not pruned: Λ may start at zero.
    (values,) = whole([lam.detach()])
    still = pruned & (values.to(pruned.device) == 0)
    return still if still.any() else None


def _as_bits(scaling: float) -> Tensor:
    """Return a scaling as a whole number, which no cast of a model rounds."""
    return torch.tensor(scaling, dtype=torch.float64).view(torch.int64)


def _from_bits(saved: Tensor) -> float:
    """Return the scaling; older versions have saved it as a float64."""
    saved = saved.detach().cpu()
    return float(saved if saved.is_floating_point() else saved.view(torch.float64))
