"""nn.MultiheadAttention: one adapter for query, key and value, and one for the output projection.

torch hands the four weights to one function and calls none of the projections. So the forward pass
is the base layer's own, with the weights and their changes in the place of the weights.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.base_attributes import of_base_layer
from lora2.tuners.base.layers.changed_weights import ChangedWeight, call_with

_ONE = ("in_proj_weight",)
_THREE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class AttentionLayer(AdaptedLayer):
    """An attention layer with adapters: B A is the change of in_proj_weight [3 · d, d].

    Where keys or values have another width, torch has three weights. They are the diagonal blocks
    of one [3 · d, d + kdim + vdim] matrix then, so that one adapter serves them as well: each is
    changed by its rows of B and its columns of A. The output projection is a layer of its own.
    """

    embed_dim = of_base_layer("embed_dim")
    kdim = of_base_layer("kdim")
    vdim = of_base_layer("vdim")
    num_heads = of_base_layer("num_heads")
    head_dim = of_base_layer("head_dim")
    dropout = of_base_layer("dropout")
    batch_first = of_base_layer("batch_first")
    add_zero_attn = of_base_layer("add_zero_attn")
    in_proj_weight = of_base_layer("in_proj_weight")
    in_proj_bias = of_base_layer("in_proj_bias")
    q_proj_weight = of_base_layer("q_proj_weight")
    k_proj_weight = of_base_layer("k_proj_weight")
    v_proj_weight = of_base_layer("v_proj_weight")
    out_proj = of_base_layer("out_proj")
    bias_k = of_base_layer("bias_k")
    bias_v = of_base_layer("bias_v")
    merge_masks = of_base_layer("merge_masks")
    _qkv_same_embed_dim = of_base_layer("_qkv_same_embed_dim")

    @staticmethod
    def shape_of(base: Any) -> tuple[int, int]:
        """(3 · d, d), or the sum of the three weights' widths for d."""
        width = base.embed_dim
        return 3 * width, width if base._qkv_same_embed_dim else width + base.kdim + base.vdim

    @property
    def in_features(self) -> int:
        """The width of the queries, as PEFT's LoRA has it."""
        return self.get_base_layer().embed_dim  # type: ignore[return-value]

    @property
    def out_features(self) -> int:
        """The rows of in_proj_weight."""
        return 3 * self.in_features

    @property
    def weight(self) -> Tensor:
        """in_proj_weight, or the three weights side by side."""
        base: Any = self.get_base_layer()
        weights = [getattr(base, name) for name in self.weight_names()]
        return weights[0] if len(weights) == 1 else torch.cat(weights, 1)

    def weight_names(self) -> tuple[str, ...]:
        """in_proj_weight, or the names of three."""
        base: Any = self.get_base_layer()
        return _ONE if base._qkv_same_embed_dim else _THREE

    def by_weight(self, change: Tensor) -> dict[str, Tensor]:
        """A change as `weight` has it, by the name of the parameter."""
        names = self.weight_names()
        widths = [getattr(self.get_base_layer(), name).shape[1] for name in names]
        return dict(zip(names, change.split(widths, 1), strict=True))

    def in_weight_layout(self, matrix: Tensor) -> Tensor:
        """[3 · d, d] as it is; of three weights the diagonal blocks [d, ...], side by side."""
        names = self.weight_names()
        if len(names) == 1:
            return matrix
        base: Any = self.get_base_layer()
        widths = [getattr(base, name).shape[1] for name in names]
        rows = matrix.split(base.embed_dim)
        blocks = [part.split(widths, 1)[block] for block, part in enumerate(rows)]
        return torch.cat(blocks, 1)

    def apply_factors(self, x: Tensor, B: Tensor, A: Tensor) -> Tensor:
        """Refuse: attention is no sum of what its weights give."""
        raise NotImplementedError

    def layers_inside(self) -> tuple[tuple[nn.Module, str], ...]:
        """The output projection."""
        return ((self.get_base_layer(), "out_proj"),)

    def add_dropout(self, adapter_name: str, probability: float) -> None:
        """Warn that no input is dropped, for the adapter has none of its own."""
        if probability:
            warnings.warn(
                f"lora_dropout={probability} has no effect in nn.MultiheadAttention, whose weights "
                "are changed as a whole; its own dropout stays as it is.",
                stacklevel=2,
            )
        super().add_dropout(adapter_name, 0.0)

    # By torch's name for it, which callers may use.
    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Output of the base layer, with the changes of all active adapters in its weights."""
        if kwargs.pop("adapter_names", None) is not None:
            raise UserError(
                "adapter_names cannot be used with adapters of nn.MultiheadAttention, which "
                "computes with one weight for all rows: give the rows of each adapter a batch of "
                "their own, after set_adapter."
            )
        weights: list[ChangedWeight] = []
        for layer in (self, self.out_proj):
            if layer.disable_adapters and layer.merged:
                layer.unmerge()
            weights += layer.changed_weights(layer.effective_adapters())
        return call_with(self.base_layer, weights, query, *args, **kwargs)

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the base layer, merged or as it was (PEFT's method for layers around layers)."""
        base: Any = self.get_base_layer()
        if merge:
            self.merge(safe_merge, adapter_names)
            base.out_proj.merge(safe_merge, adapter_names)
        base.out_proj = base.out_proj.get_base_layer()
        return base

    def as_lora(self, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        """As of a linear layer.

        Raises:
            UserError: three weights, which PEFT's LoRA does not adapt.
        """
        if self.weight_names() != _ONE:
            raise UserError(
                "PEFT's LoRA does not adapt an nn.MultiheadAttention with kdim="
                f"{self.kdim} or vdim={self.vdim} other than embed_dim={self.embed_dim}; export "
                "the merged model instead."
            )
        return super().as_lora(B, A)

    @classmethod
    def from_lora(cls, lora: Any, adapter_name: str, module_name: str) -> tuple[Tensor, Tensor]:
        """Refuse.

        Raises:
            UserError: PEFT's LoRA adds its change of out_proj twice (PEFT 0.21).
        """
        raise UserError(
            f"{module_name} is an nn.MultiheadAttention, to whose out_proj PEFT's LoRA adds its "
            "change twice, so that it computes something else than its factors say; leave it out "
            "of target_modules."
        )

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """False: PEFT's conversion does not look into the layer."""
        return False
