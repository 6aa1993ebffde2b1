"""The linear layer with SoRA adapters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lora2.mathematics.precision import in_full_precision
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.linear import LinearLayer
from lora2.tuners.base.offloading import loaded
from lora2.tuners.sora.config import SoraConfig


class SoraLayer(AdaptedLayer):
    """A frozen base layer and, per adapter, A [r, d_in], the gates g [r] and B [d_out, r]."""

    adapter_layer_names = ("sora_A", "sora_gate", "sora_B")
    other_param_names = ("adapter_dropout", "sora_scaling", "scaling")

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.sora_A = nn.ParameterDict()
        self.sora_gate = nn.ParameterDict()
        self.sora_B = nn.ParameterDict()
        # The configs' value; `scaling` is what is used.
        self.sora_scaling: dict[str, float] = {}

    def add_adapter(self, adapter_name: str, config: SoraConfig, r: int) -> None:
        """Create A, g and B of one adapter, started as in the authors' code: g from N(0, 1)."""
        d_out, d_in = self.matrix_shape()
        A, B = torch.empty(r, d_in), torch.zeros(d_out, r)
        # A module that was pruned to rank 0 has nothing to draw, and torch warns of it.
        if r:
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        if not config.init_weights:
            nn.init.normal_(B)
        self.sora_A[adapter_name] = nn.Parameter(A)
        self.sora_gate[adapter_name] = nn.Parameter(torch.randn(r))
        self.sora_B[adapter_name] = nn.Parameter(B)
        self.sora_scaling[adapter_name] = config.lora_alpha / config.r
        self.scaling[adapter_name] = self.initial_scaling(adapter_name)
        self.add_dropout(adapter_name, config.lora_dropout)
        self.move_to_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether this layer carries the adapter."""
        return adapter_name in self.sora_scaling

    def initial_scaling(self, adapter_name: str) -> float:
        """Return the factor that the adapter's config gives."""
        return self.sora_scaling[adapter_name]

    def factors(self, adapter_name: str, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Return (B diag(g) · scaling [d_out, r], A [r, d_in]): the weight changes by B A."""
        A, g, B = (
            in_full_precision(loaded(held, adapter_name), dtype)
            for held in (self.sora_A, self.sora_gate, self.sora_B)
        )
        return self.scaling[adapter_name] * B * g, A

    def prunable(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """The gates g [r], and A [r, d_in]."""
        gate: Any = self.sora_gate[adapter_name]
        A: Any = self.sora_A[adapter_name]
        return gate, A

    @torch.no_grad()
    def keep_ranks(self, adapter_name: str, kept: Tensor) -> None:
        """Drop all ranks but those of the mask [r]."""
        for held, dimension in ((self.sora_A, 0), (self.sora_gate, 0), (self.sora_B, 1)):
            old: Any = held[adapter_name]
            new = old.data.index_select(dimension, kept.nonzero().flatten())
            held[adapter_name] = nn.Parameter(new.contiguous(), requires_grad=old.requires_grad)

    def __repr__(self) -> str:
        """Name the method before the layer, as PEFT's layers do."""
        return "sora." + super().__repr__()


class SoraLinear(LinearLayer, SoraLayer):
    """A linear layer with SoRA adapters: y = W x + B (g ⊙ A x) · scaling."""
