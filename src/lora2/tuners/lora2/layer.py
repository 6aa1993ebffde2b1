"""The layer with LoRA² adapters: its tensors, and the formula that makes two factors of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from lora2.mathematics.compaction import compacted, from_normal_form
from lora2.mathematics.factors import factors
from lora2.mathematics.precision import in_full_precision
from lora2.mathematics.transforms import must_stay_plain
from lora2.tuners.base.distributed.whole import in_layout_of, multiply, whole
from lora2.tuners.base.distributed.zero import is_partitioned
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer, layers_of_kind
from lora2.tuners.base.offloading import loaded
from lora2.tuners.lora2.adapter_state import AdapterState
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.factors import FACTORS, INNER
from lora2.tuners.lora2.matrix_size import MatrixSize
from lora2.tuners.lora2.precision import PreciseParameters
from lora2.tuners.lora2.prepared import PreparedByAdapter
from lora2.tuners.lora2.start import RAW_LENGTH, initial_factors

SCALING = "lora2_scaling"
"""In the state dict of a whole module, the scaling of adapters whose k has become smaller."""


class Lora2Layer(AdaptedLayer):
    """A frozen base layer and, per adapter, the five factors of W + scaling · (P Λ Q)ᵀ."""

    adapter_layer_names = tuple(factor.attribute for factor in FACTORS.values())
    other_param_names = ("adapter_dropout", "lora2_scaling", "lora2_states", "scaling")

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        for symbol, factor in FACTORS.items():
            kind = PreciseParameters if symbol in INNER else nn.ParameterDict
            setattr(self, factor.attribute, kind())
        self.lora2_states: dict[str, AdapterState] = {}
        # It holds the adapters whose k has become smaller: their scaling no longer follows from k,
        # and a state dict of the whole module needs it.
        self.lora2_scaling = BufferDict(persistent=True)
        self.lora2_prepared = PreparedByAdapter()
        # Whether reentrant checkpointing has been seen.
        self.lora2_recomputes = False

    def add_adapter(
        self, adapter_name: str, config: Lora2Config, k: int, r: int, alpha: float
    ) -> None:
        """Create the five factors of one adapter; k is cut to the smaller side of the weight.

        With r = 0 they are empty: nothing is computed, and nothing can be trained.
        """
        d_out, d_in = self.matrix_shape()
        k = min(k, d_in, d_out)
        scaling = config.scaling(k, config.init_r, alpha)
        k = k if r else 0
        start = initial_factors(config.start, d_in, k, r, d_out, std=config.init_std)
        self.lora2_states[adapter_name] = AdapterState(
            config_scaling=scaling, orthonormalize=config.orthogonality == "exact", k=k, r=r
        )
        self.scaling[adapter_name] = self.initial_scaling(adapter_name)
        self.add_dropout(adapter_name, config.lora_dropout)
        for symbol, tensor in as_stored(start).items():
            getattr(self, FACTORS[symbol].attribute)[adapter_name] = nn.Parameter(tensor)
        self.move_to_base_layer(adapter_name)
        self._still_if_empty(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter."""
        return adapter_name in self.lora2_states

    def has_effect(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter and any singular value of it."""
        state = self.lora2_states.get(adapter_name)
        return state is not None and state.r > 0

    def initial_scaling(self, adapter_name: str) -> float:
        """Return the factor that the adapter's config gives."""
        return self.lora2_states[adapter_name].config_scaling

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from this layer."""
        super().delete_adapter(adapter_name)
        self.lora2_prepared.pop(adapter_name, None)

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
        self._still_if_empty(adapter_name)

    def set_adapter(self, adapter_names: Any, inference_mode: bool = False) -> None:
        """Make these adapters active, and trainable unless in inference mode."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for adapter_name, state in self.lora2_states.items():
            state.is_stilled = False
            self._still_if_empty(adapter_name)

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Train these adapters, or do not; one without singular values is never trained."""
        super().set_requires_grad(adapter_names, requires_grad)
        for adapter_name in {adapter_names} if isinstance(adapter_names, str) else adapter_names:
            if adapter_name in self.lora2_states:
                self._still_if_empty(adapter_name)

    def _still_if_empty(self, adapter_name: str) -> None:
        """Stop training an adapter that has no singular value here, until it has some again."""
        state = self.lora2_states[adapter_name]
        parameters = self.parameters_of(adapter_name).values()
        if state.r > 0:
            if state.is_stilled:
                state.is_stilled = False
                for parameter in parameters:
                    parameter.requires_grad_(True)
            return
        if any(parameter.requires_grad for parameter in parameters):
            state.is_stilled = True
        # A parameter that no loss reaches would make DistributedDataParallel wait for it.
        for parameter in parameters:
            parameter.requires_grad_(False)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # A state dict does not hold the mask.
        for adapter_name in self.lora2_states:
            self._clear_pruned(adapter_name)

    @torch.no_grad()
    def _clear_pruned(self, adapter_name: str) -> None:
        """Make the values zero that count as zero."""
        pruned = self.lora2_states[adapter_name].pruned
        if pruned is not None:
            lam = self.parameters_of(adapter_name)["lam"]
            multiply([lam], [~pruned.to(lam.device)])

    def release_pruned(self, adapter_name: str) -> None:
        """Let values that were pruned be trained again; they start at zero."""
        self._clear_pruned(adapter_name)
        self.lora2_states[adapter_name].pruned = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the sizes that a state dict has: a whole module's may be of a pruned adapter."""
        for adapter_name, state in self.lora2_states.items():
            own = self.parameters_of(adapter_name)["u"]
            saved = state_dict.get(f"{prefix}{FACTORS['u'].attribute}.{adapter_name}")
            key = f"{prefix}{SCALING}.{adapter_name}"
            scaling = state_dict.get(key)
            if saved is None:
                continue
            # What is loaded may have kept other values.
            lam = state_dict.get(f"{prefix}{FACTORS['lam'].attribute}.{adapter_name}")
            state.pruned = _still_pruned(state.pruned, lam)
            if scaling is not None:
                state.config_scaling = self.scaling[adapter_name] = _from_bits(scaling)
                state_dict[key] = _as_bits(state.config_scaling)
                self.mark_narrowed(adapter_name)
                self.resize_adapter(adapter_name, *saved.shape)
            # A sharded or partitioned factor has another shape; a wrong k is an error of torch.
            elif own.dim() == saved.dim() == 2 and len(own) == len(saved):
                self.resize_adapter(adapter_name, *saved.shape)
            if scaling is None and adapter_name in self.lora2_scaling:
                # A state dict of a wider adapter, or of an older version, does not have it.
                state_dict[key] = self.lora2_scaling[adapter_name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def compact(self, adapter_name: str) -> None:
        """Drop the singular values of an adapter that are zero, in place; Δ stays the same."""
        old_k, _ = self.sizes_of(adapter_name)
        small = self.compacted(adapter_name, self.parameters_of(adapter_name))
        self.resize_adapter(adapter_name, *small["u"].shape)
        for symbol, tensor in small.items():
            self.parameters_of(adapter_name)[symbol].copy_(tensor)
        if len(small["u"]) < old_k:
            self.mark_narrowed(adapter_name)

    def mark_narrowed(self, adapter_name: str) -> None:
        """Note that k has become smaller, so that the scaling no longer follows from it."""
        device = self.parameters_of(adapter_name)["lam"].device
        # On the meta device it would have no value.
        bits = _as_bits(self.initial_scaling(adapter_name))
        self.lora2_scaling[adapter_name] = bits if device.type == "meta" else bits.to(device)

    @torch.no_grad()
    def set_change(self, adapter_name: str, X: Tensor, sigma: Tensor, Y: Tensor) -> None:
        """Make the adapter's change X diag(σ) Y, cut to k; X [d_out, ·], Y [·, d_in] orthonormal.

        λ is 1 and the magnitude is in 𝒱, as at the default start, where v has the same length too:
        it sets how fast v turns in training.
        """
        k, r = self.sizes_of(adapter_name)
        values = from_normal_form(
            Y.mT,
            sigma / self.scaling[adapter_name],
            X.mT,
            k=k,
            r=r,
            length=self._raw_length(adapter_name),
        )
        for symbol, tensor in as_stored(values).items():
            self.parameters_of(adapter_name)[symbol].copy_(tensor)

    @torch.no_grad()
    def compacted(self, adapter_name: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return stored factors of this adapter without their zero singular values; Δ is the same.

        Their k and r become the number of values that are left, where that is below k.
        """
        plain = {symbol: tensor.detach().cpu().double() for symbol, tensor in stored.items()}
        plain["lam"] = self._without_pruned(adapter_name, plain["lam"])
        small = compacted(
            **plain | {"v": plain["v"].mT},
            orthonormalize=self.lora2_states[adapter_name].orthonormalize,
            length=self._raw_length(adapter_name),
        )
        return {
            symbol: tensor.to(stored[symbol].device, stored[symbol].dtype)
            for symbol, tensor in as_stored(small).items()
        }

    def _raw_length(self, adapter_name: str) -> float:
        return RAW_LENGTH if self.lora2_states[adapter_name].orthonormalize else 1.0

    # The formula

    def stored_factors(
        self, adapter_name: str, dtype: torch.dtype | None = None
    ) -> dict[str, Tensor]:
        """The five factors by symbol, v [d_in, k] among them, in `dtype`, or float32 or wider."""
        stored = {
            symbol: in_full_precision(tensor, dtype)
            for symbol, tensor in self._loaded_tensors(adapter_name).items()
        }
        lam = self._without_pruned(adapter_name, stored["lam"])
        return stored | {"v": stored["v"].mT, "lam": lam}

    def _without_pruned(self, adapter_name: str, lam: Tensor) -> Tensor:
        pruned = self.lora2_states[adapter_name].pruned
        return lam if pruned is None else lam.masked_fill(in_layout_of(pruned, lam), 0)

    def _loaded_tensors(self, adapter_name: str) -> Mapping[str, Tensor]:
        parameters = self.parameters_of(adapter_name)
        if is_partitioned(parameters["v"]) and not torch.is_grad_enabled():
            # DeepSpeed gathers a factor when it is read, but only within its engine's forward pass.
            # A model that generates is called outside of it.
            return dict(zip(parameters, whole([*parameters.values()]), strict=True))
        if not parameters["v"].is_meta:
            return parameters
        return {
            symbol: loaded(getattr(self, factor.attribute), adapter_name)
            for symbol, factor in FACTORS.items()
        }

    def factors(self, adapter_name: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return (B [d_out, k], A [k, d_in]): the adapter changes the weight by B A (eq. 4)."""
        state = self.lora2_states[adapter_name]
        stored = self.stored_factors(adapter_name, dtype)
        if not state.r:
            return stored["V"].mT, stored["v"].mT
        with torch.autocast(stored["v"].device.type, enabled=False):
            return factors(
                **stored,
                scaling=self.scaling[adapter_name],
                orthonormalize=state.orthonormalize,
            )

    def product_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return (A [k, d_in], 𝒱 [k, d_out]) for a forward pass, made ready before it or now."""
        parameters = self.parameters_of(adapter_name)
        prepared = self._prepared_factors(adapter_name, parameters)
        A, V = prepared or (
            self.factors(adapter_name)[1],
            self._loaded_tensors(adapter_name)["V"],
        )
        # Without gradients, a view of a parameter that needs one has no backward pass to watch.
        watch = self.lora2_states[adapter_name].watch
        if watch is not None and V.requires_grad and torch.is_grad_enabled():
            # A node of this call, since a backward pass comes to older nodes when all is over.
            V = V.view_as(V)
            V.register_hook(watch)
        return A, V

    def _prepared_factors(
        self, adapter_name: str, parameters: dict[str, nn.Parameter]
    ) -> tuple[Tensor, Tensor] | None:
        prepared = self.lora2_prepared.get(adapter_name)
        if prepared is None or must_stay_plain():
            return None
        if prepared.with_gradients and not torch.is_grad_enabled():
            # Reentrant checkpointing repeats this call in a backward pass of its own, in which the
            # shared graph would give every layer's parameters a gradient, once for each block.
            del self.lora2_prepared[adapter_name]
            self.lora2_recomputes = True
            return None
        holds = prepared.holds_for(parameters, self.scaling[adapter_name])
        return (prepared.A, prepared.V) if holds else None

    def forward_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return (B, A), which may have been prepared."""
        A, V = self.product_factors(adapter_name)
        return V.mT, A

    def __repr__(self) -> str:
        """Name the method before the layer, as PEFT's layers do."""
        return "lora2." + super().__repr__()


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


def as_stored(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return factors by symbol as a layer stores them: vᵀ [k, d_in] in place of v."""
    return values | {"v": values["v"].mT.contiguous()}


def adapted_layers(model: nn.Module, adapter_name: str) -> dict[str, Lora2Layer]:
    """Return the layers that carry the adapter, by module name in the order of the model."""
    return layers_of_kind(model, adapter_name, Lora2Layer)
