"""The tuner: puts adapted layers into a model, combines, saves and loads its adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from lora2 import training_hook
from lora2.allocator import RankAllocator
from lora2.combination import add_weighted_adapter
from lora2.config import Lora2Config
from lora2.errors import UserError
from lora2.layers.base import BASE_ONLY, Lora2Layer
from lora2.layers.dispatch import wrap_layer
from lora2.saving import compact_state_dict, remember_sizes, resize_for
from lora2.targets import DEFAULT_TARGET_MODULES


class Lora2Model(BaseTuner):
    """A model with LoRA² adapters in its target modules (PEFT's tuner for `Lora2Config`)."""

    prefix = "lora2_"
    tuner_layer_cls = Lora2Layer
    target_module_mapping = DEFAULT_TARGET_MODULES

    def _create_and_replace(
        self,
        peft_config: Lora2Config,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        k_key = get_pattern_key(list(peft_config.k_pattern), current_key)
        r_key = get_pattern_key(list(peft_config.rank_pattern), current_key)
        k = peft_config.k_pattern.get(k_key, peft_config.k)
        r = peft_config.rank_pattern.get(r_key, peft_config.init_r)
        if isinstance(target, Lora2Layer):
            target.add_adapter(adapter_name, peft_config, k, r)
            return
        layer = wrap_layer(target, adapter_name, current_key)
        layer.add_adapter(adapter_name, peft_config, k, r)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    # Training

    def _post_injection_hook(
        self, model: nn.Module, config: Lora2Config, adapter_name: str
    ) -> None:
        training_hook.install(model)

    def unload(self) -> nn.Module:
        """Return the base model as it was before any adapter."""
        training_hook.remove(self.model)
        return super().unload()

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Return the base model with the adapters' change in its weights."""
        merged = super().merge_and_unload(progressbar, safe_merge, adapter_names)
        training_hook.remove(self.model)
        return merged

    def weighted_penalty(self) -> Tensor | None:
        """Return Σ orth_reg_weight · R over the trained adapters, or None where there is none.

        Added to `outputs.loss` already; for a loss of your own, add it yourself.
        """
        return training_hook.weighted_penalty(self.model)

    def update_and_allocate(self, global_step: int) -> None:
        """Prune after an optimizer step, by AdaLoRA's name for it; `global_step` counts from 0.

        Raises:
            UserError: the config has no `total_step`.
        """
        allocators: dict[str, RankAllocator] = self.__dict__.setdefault("_allocators", {})
        for name, config in training_hook.trained_adapters(self.model):
            if not config.prunes:
                continue
            if name not in allocators:
                if config.total_step is None:
                    raise UserError(
                        f"total_step={config.total_step} in the config of adapter {name!r}: "
                        "update_and_allocate needs the number of optimizer steps there."
                    )
                allocators[name] = RankAllocator(self.model, config.total_step, name, config=config)
            if allocators[name].completed_steps <= global_step:
                allocators[name].step()

    # Mixed batches

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names` to every adapted layer for one forward pass (PEFT's hook)."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        self._check_adapter_names(adapter_names)
        beams = kwargs.get("num_beams") or 1
        hook = partial(_add_adapter_names, adapter_names=adapter_names, beams=beams)
        handles = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for module in self.modules()
            if isinstance(module, Lora2Layer | AuxiliaryTrainingWrapper)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_adapter_names(self, adapter_names: list[str]) -> None:
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = set(adapter_names) - {BASE_ONLY} - set(self.peft_config)
        if unknown:
            raise ValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}"
            )

    # Combining, saving and loading

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "cat",
        svd_rank: int | None = None,
    ) -> None:
        """Add an adapter whose change is Σ weight · Δ of the given ones: see `combination`."""
        add_weighted_adapter(self, adapters, weights, adapter_name, combination_type, svd_rank)

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
        resize_for(model, adapter_name, remapped)
        return remapped


def _add_adapter_names(
    module: nn.Module, args: Any, kwargs: dict[str, Any], adapter_names: list[str], beams: int
) -> tuple[Any, dict[str, Any]]:
    # Beam search repeats each row of the batch, but an encoder still sees it as it came.
    if beams > 1 and args and len(args[0]) == beams * len(adapter_names):
        adapter_names = [name for name in adapter_names for _ in range(beams)]
    return args, kwargs | {"adapter_names": adapter_names}
