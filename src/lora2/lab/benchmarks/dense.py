"""LoRA² as the paper's released code computes it, for comparison only."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lora2.tuners.lora2.linear import Lora2Linear


class DenseLora2Linear(Lora2Linear):
    """Builds Δ [d_in, d_out] in every forward pass and multiplies the batch by it: y = W x + Δᵀ x.

    For factors that are not orthonormal by construction, the only ones that code has.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output plus the input times Δ = v u Λ 𝒰 𝒱."""
        output = self.get_base_layer()(x)
        for name in self.active_adapters:
            factors = self.five_factors(name)
            P, Q = factors["v"] @ factors["u"], factors["U"] @ factors["V"]
            delta = (P * factors["lam"]) @ Q
            output = output + self.scaling[name] * (x @ delta.to(x.dtype))
        return output


def make_dense(model: nn.Module) -> None:
    """Let every adapted linear layer of the model compute densely; its tensors stay."""
    for module in model.modules():
        if isinstance(module, Lora2Linear):
            module.__class__ = DenseLora2Linear
