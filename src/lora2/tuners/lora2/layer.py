"""The layer with LoRA² adapters: its tensors, and the formula that makes two factors of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora2.mathematics.compaction import compacted, from_normal_form
from lora2.mathematics.factors import factors
from lora2.mathematics.precision import in_full_precision, without_autocast
from lora2.mathematics.transforms import (
    is_in_backward_pass,
    keeping_what_is_saved,
    must_stay_plain,
)
from lora2.tuners.base.distributed.gathering import in_layout_of, whole
from lora2.tuners.base.distributed.zero import is_partitioned
from lora2.tuners.base.layers.finding import layers_of_type
from lora2.tuners.base.offloading import loaded
from lora2.tuners.lora2.adapter_state import AdapterState
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.factor_table import FACTORS
from lora2.tuners.lora2.matrix_size import MatrixSize, largest_rank
from lora2.tuners.lora2.prepared_factors import ForwardPass, PreparedByAdapter
from lora2.tuners.lora2.start import RAW_LENGTH, initial_factors
from lora2.tuners.lora2.stored_factors import StoredFactors


class Lora2Layer(StoredFactors):
    """A frozen base layer and, per adapter, the five factors of W + scaling · (P Λ Q)ᵀ."""

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.lora2_prepared = PreparedByAdapter()
        self.lora2_pass = ForwardPass()

    def add_adapter(
        self, adapter_name: str, config: Lora2Config, k: int, r: int, alpha: float
    ) -> None:
        """Create the five factors of one adapter; k is cut to the smaller side of the weight.

        With r = 0 they are empty: nothing is computed, and nothing can be trained.
        """
        d_out, d_in = shape = self.matrix_shape()
        first_k = largest_rank(shape, k)
        scaling = config.scaling(first_k, config.init_r, alpha)
        k = MatrixSize.of(shape, k, r).k
        start = initial_factors(config.start, d_in, k, r, d_out, std=config.init_std)
        self.lora2_states[adapter_name] = AdapterState(
            config_scaling=scaling,
            orthonormalize=config.orthogonality == "exact",
            k=k,
            r=r,
            first_k=first_k,
        )
        self.scaling[adapter_name] = self.initial_scaling(adapter_name)
        self.add_dropout(adapter_name, config.lora_dropout)
        for symbol, tensor in as_stored(start).items():
            getattr(self, FACTORS[symbol].attribute)[adapter_name] = nn.Parameter(tensor)
        self.move_to_base_layer(adapter_name)
        self._freeze_if_empty(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from this layer."""
        super().delete_adapter(adapter_name)
        self.lora2_prepared.pop(adapter_name, None)

    @torch.no_grad()
    def compact(self, adapter_name: str) -> None:
        """Drop the singular values of an adapter that are zero, in place; Δ stays the same."""
        old_k, _ = self.sizes_of(adapter_name)
        small = self.compacted(adapter_name, self.parameters_of(adapter_name))
        self.resize_adapter(adapter_name, *small["u"].shape)
        for symbol, tensor in small.items():
            self.parameters_of(adapter_name)[symbol].copy_(tensor)
        if len(small["u"]) < old_k:
            self.lora2_states[adapter_name].is_narrowed = True

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

    def five_factors(
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
        five = self.five_factors(adapter_name, dtype)
        if not state.r:
            return five["V"].mT, five["v"].mT
        with without_autocast(five["v"]):
            return factors(
                **five,
                scaling=self.scaling[adapter_name],
                orthonormalize=state.orthonormalize,
            )

    def product_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return (A [k, d_in], 𝒱 [k, d_out]) for a forward pass, made ready before it or now."""
        A, V = self._prepared_factors(adapter_name) or self._own_factors(adapter_name)
        # Without gradients, a view of a parameter that needs one has no backward pass to watch.
        watch = self.lora2_states[adapter_name].watch
        if watch is not None and V.requires_grad and torch.is_grad_enabled():
            # A node of this call, since a backward pass comes to older nodes when all is over.
            V = V.view_as(V)
            V.register_hook(watch)
        return A, V

    def _own_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        # Checkpointing compares what a call and its repetition save, and one of them may have
        # prepared factors, which are computed outside of the calls.
        with keeping_what_is_saved():
            return self.factors(adapter_name)[1], self._loaded_tensors(adapter_name)["V"]

    def _prepared_factors(self, adapter_name: str) -> tuple[Tensor, Tensor] | None:
        if must_stay_plain():
            return None
        if self.lora2_pass.with_gradients and not torch.is_grad_enabled():
            self.lora2_pass.recomputes = True
        prepared = self.lora2_prepared.get(adapter_name)
        if prepared is None:
            return None
        if prepared.is_over and not is_in_backward_pass():
            # A part of the model is called by itself. Its parameters may have changed, and what
            # its backward pass repeats must not find these factors.
            self.lora2_prepared.pop(adapter_name, None)
            return None
        if prepared.with_gradients and not torch.is_grad_enabled():
            # Reentrant checkpointing repeats this call in a backward pass of its own, in which the
            # shared graph would give every layer's parameters a gradient, once for each block.
            self.lora2_prepared.pop(adapter_name, None)
            return None
        parameters = self.parameters_of(adapter_name)
        holds = prepared.holds_for(parameters, self.scaling[adapter_name])
        return (prepared.A, prepared.V) if holds else None

    def forward_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return (B, A), which may have been prepared."""
        A, V = self.product_factors(adapter_name)
        return V.mT, A

    def __repr__(self) -> str:
        """Name the method before the layer, as PEFT's layers do."""
        return "lora2." + super().__repr__()


def as_stored(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return factors by symbol as a layer stores them: vᵀ [k, d_in] in place of v."""
    return values | {"v": values["v"].mT.contiguous()}


def lora2_layers(model: nn.Module, adapter_name: str) -> dict[str, Lora2Layer]:
    """Return the LoRA² layers that carry the adapter, by module name in the order of the model."""
    return layers_of_type(model, adapter_name, Lora2Layer)
