"""The tuner of LoRA²: puts its layers into a model, trains, combines, saves and loads adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.experts import check_number_of_experts
from lora2.tuners.base.model.adapted_model import AdaptedModel
from lora2.tuners.base.model.placement import trained_adapters
from lora2.tuners.lora2 import forward_hook
from lora2.tuners.lora2.allocation.step_allocators import StepAllocators
from lora2.tuners.lora2.combination import add_weighted_adapter
from lora2.tuners.lora2.combined_heads import Heads
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer
from lora2.tuners.lora2.layer_types import LAYER_TYPES, Lora2ExpertMatrix
from lora2.tuners.lora2.saving import (
    compact_state_dict,
    remember_sizes,
    resize_for,
    without_pruned_modules,
)


class Lora2Model(AdaptedModel):
    """A model with LoRA² adapters in its target modules (PEFT's tuner for `Lora2Config`)."""

    prefix = "lora2_"
    tuner_layer_cls = Lora2Layer
    layer_types = LAYER_TYPES
    expert_type = Lora2ExpertMatrix

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Before the adapter is put in, because one that is refused is deleted again.
        self._step_allocators = StepAllocators()
        super().__init__(*args, **kwargs)

    def add_to_layer(
        self, layer: AdaptedLayer, adapter_name: str, config: Lora2Config, module_name: str
    ) -> None:
        """Create the factors of one layer, with the sizes that its name's patterns give."""
        assert isinstance(layer, Lora2Layer)
        k, r, alpha = config.asked_for(module_name)
        layer.add_adapter(adapter_name, config, k=k, r=r, alpha=alpha)

    # Training

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Put an adapter into the model; the training hook then knows its layers."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        forward_hook.install(model)

    def unload(self) -> nn.Module:
        """Return the base model as it was before any adapter."""
        forward_hook.remove(self.model)
        return super().unload()

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Return the base model with the adapters' change in its weights."""
        merged = super().merge_and_unload(progressbar, safe_merge, adapter_names)
        forward_hook.remove(self.model)
        return merged

    def weighted_penalty(self) -> Tensor | None:
        """Return Σ orth_reg_weight · R over the trained adapters, or None where there is none.

        Added to `outputs.loss` already; for a loss of your own, add it yourself.
        """
        return forward_hook.weighted_penalty(self.model)

    def update_and_allocate(self, global_step: int) -> None:
        """Prune after an optimizer step, by AdaLoRA's name for it; `global_step` counts from 0.

        A count that has gone back is a new training.

        Raises:
            UserError: the config has no `total_step`, the first count is not the first step of
                the adapter's training, as in a resumed one, or a count leaves steps out.
        """
        for adapter in trained_adapters(self.model, Lora2Config):
            if adapter.config.prunes:
                allocator = self._step_allocators.of(
                    self.model, adapter.name, adapter.config, global_step
                )
                if allocator.completed_steps <= global_step:
                    allocator.step()

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from the model."""
        super().delete_adapter(adapter_name)
        self._step_allocators.forget(adapter_name)
        hook = forward_hook.installed(self.model)
        if hook is not None:
            hook.forget(adapter_name)

    # Combining, saving and loading

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "cat",
        svd_rank: int | None = None,
        heads: Heads = "refuse",
    ) -> float | None:
        """Add an adapter whose change is Σ weight · Δ of the given ones, exactly.

        Nothing happens where an adapter of the new name exists, as in PEFT.

        Args:
            adapters: names of LoRA² adapters of this model.
            weights: one finite number for each.
            adapter_name: the name of the sum.
            combination_type: "cat" (or "linear") keeps the whole sum, its k being the sum of the
                k's; "svd" keeps its largest singular values.
            svd_rank: how many of them, by default the largest k of the adapters.
            heads: what becomes of modules that several adapters train whole (modules_to_save),
                which are weights and not changes: "refuse", "average" for their mean, weighted by
                weight / Σ weight, or "first" for those of the first adapter that has some. Rows of
                tokens (trainable_token_indices) are weights as well, and have no mean: several
                adapters with some need "first".

        Returns:
            The Frobenius norm of what was left out over that of the whole sum; None where nothing
            happened.

        Raises:
            UserError: an argument is not one of these, the model was given up, or several adapters
                train modules whole and `heads` is "refuse", or it is "average" and the weights'
                sum is 0.
            NumericalError: NaN or infinity in one of the adapters.
        """
        return add_weighted_adapter(
            self, adapters, weights, adapter_name, combination_type, svd_rank, heads
        )

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Lora2Config,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        selected = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        compact = compact_state_dict(model, adapter_name, selected)
        remember_sizes(model, config, adapter_name, compact)
        return compact

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: Lora2Config,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(
            model, config, adapter_name, state_dict
        )
        check_number_of_experts(model, adapter_name, remapped)
        remapped = without_pruned_modules(model, adapter_name, remapped)
        resize_for(model, adapter_name, remapped)
        return remapped
