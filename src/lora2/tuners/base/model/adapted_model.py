"""What the tuners of this package share: adapted layers are put into a model, and merged."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from peft import LoraConfig
from peft.config import PeftConfig
from peft.tuners.tuners_utils import onload_layer
from torch import nn

from lora2.errors import MergedWeightError, UserError
from lora2.tuners.base.config.expert_targets import (
    choose_parameters,
    is_chosen,
    names_parameter,
    warn_of_unknown_parameters,
)
from lora2.tuners.base.config.patterns import unmatched
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.base.distributed.tensor_parallel import group_of, share_start, split_of
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.dispatch import LayerTypes, wrap_layer
from lora2.tuners.base.layers.experts import (
    ExpertMatrix,
    ExpertsLayer,
    matrix_name,
    parameter_of,
)
from lora2.tuners.base.layers.finding import adapted_layers, modules_of_type
from lora2.tuners.base.layers.own_forward import warn_of_own_forwards
from lora2.tuners.base.layers.quantized import activation_dtype_of, dequantize_model, keep_layouts
from lora2.tuners.base.model.mixed_batch import adapter_of_each_row, check_mixed_batch
from lora2.tuners.base.model.placing_tuner import PlacingTuner
from lora2.tuners.base.model.removal import take_out
from lora2.tuners.base.model.tied_weights import untying_broken_ties
from lora2.tuners.base.model.weight_owners import (
    check_layers_are_in_one_place,
    count_weight_owners,
)
from lora2.tuners.base.names.compiled_names import check_is_not_compiled, name_in_state_dict
from lora2.tuners.base.token_rows.checks import check_rows_apart


class AdaptedModel(PlacingTuner):
    """A tuner whose layers are `AdaptedLayer`s; a subclass adds an adapter to one of them."""

    tuner_layer_cls: type[AdaptedLayer]
    layer_types: LayerTypes
    # None where the method adapts no parameters.
    expert_type: type[ExpertMatrix] | None = None
    # PEFT's own has a pattern among the lists of names, too, and another type.
    target_module_mapping: Any = DEFAULT_TARGET_MODULES

    def add_to_layer(
        self, layer: AdaptedLayer, adapter_name: str, config: Any, module_name: str
    ) -> None:
        """Create the adapter's tensors in one layer."""
        raise NotImplementedError

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        check_is_not_compiled(current_key)
        if parameter_name is not None:
            self._adapt_parameter(
                peft_config, adapter_name, target, target_name, parent, current_key
            )
            return
        if peft_config.adapts_parameters and names_parameter(peft_config, f"{current_key}.weight"):
            # A router, which is adapted by its parameter.
            return
        if isinstance(parent, self.tuner_layer_cls):
            # Another target is around it, and has adapted it.
            return
        # A config's patterns have this name.
        current_key = name_in_state_dict(current_key)
        if isinstance(target, self.tuner_layer_cls):
            layer = target
            self._add_to_module(layer, adapter_name, peft_config, current_key)
        else:
            layer = wrap_layer(target, adapter_name, current_key, self.layer_types)
            layer.plain_dtype = activation_dtype_of(self.model)
            self._add_to_module(layer, adapter_name, peft_config, current_key)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)
        for inner_parent, name in layer.layers_inside():
            inner = getattr(inner_parent, name)
            key = f"{current_key}.base_layer.{name}"
            self._create_and_replace(peft_config, adapter_name, inner, name, inner_parent, key)

    def _check_target_module_compatiblity(
        self, peft_config: PeftConfig, model: nn.Module, target_name: str
    ) -> None:
        """Refuse what PEFT's LoRA refuses: a module that is not called, only its weight is read."""
        super()._check_target_module_compatiblity(peft_config, model, target_name)
        try:
            super()._check_target_module_compatiblity(LoraConfig(), model, target_name)
        except ValueError as error:
            raise UserError(
                f"target_modules: {target_name!r} cannot be adapted in a {type(model).__name__}, "
                "whose fused kernels read its weight and do not call it, so PEFT's LoRA refuses it "
                f"too ({error}); name other modules, or add it to exclude_modules."
            ) from error

    def _add_to_module(
        self, layer: AdaptedLayer, adapter_name: str, config: Any, module_name: str
    ) -> None:
        """Add an adapter to a module's layer, whose weight tensor parallelism may have split."""
        layer.split = split_of(self.model, layer.get_base_layer(), module_name)
        if layer.split is not None and config.lora_dropout:
            raise UserError(
                f"lora_dropout={config.lora_dropout}: the weight of {module_name} is split over "
                "several processes, which would not drop the same inputs; leave lora_dropout out."
            )
        self.add_to_layer(layer, adapter_name, config, module_name)

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> PeftConfig:
        has_default = model_config.get("model_type") in self.target_module_mapping
        if _has_parameters(peft_config) and not has_default:
            prepared: PeftConfig = peft_config
            return prepared
        return super()._prepare_adapter_config(peft_config, model_config)

    def _adapt_parameter(
        self,
        config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        key: str,
    ) -> None:
        """Add an adapter to each matrix of the parameter that has this full name.

        Raises:
            UserError: the parameter is of a kind that cannot be adapted.
        """
        if not is_chosen(config, key):
            return
        # PEFT names the experts themselves where an adapter is around them already.
        around = next((each for each in (target, parent) if isinstance(each, ExpertsLayer)), None)
        experts = ExpertsLayer(target) if around is None else around
        name = key.rpartition(".")[-1]
        assert self.expert_type is not None
        matrices = experts.matrices_of(name, partial(self.expert_type, adapter_name=adapter_name))
        for index, matrix in enumerate(matrices):
            assert isinstance(matrix, ExpertMatrix)
            self.add_to_layer(
                matrix, adapter_name, config, matrix_name(name_in_state_dict(key), index)
            )
            if adapter_name not in self.active_adapters:
                matrix.requires_grad_(False)
        if around is None:
            setattr(parent, target_name, experts)

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Put an adapter into the model, the first one or a later one."""
        config: Any = self.peft_config[adapter_name]
        if config.adapts_parameters:
            choose_parameters(config, model, tuple(self.layer_types))
            warn_of_unknown_parameters(config, model)
        # Names are those of the plan before layers are around the weights.
        group = group_of(model)
        try:
            self._put_in(model, adapter_name, *args, **kwargs)
        except Exception:
            take_out(model, adapter_name)
            raise
        if group is not None:
            # Each process has a copy of all factors, also where the weight is not split.
            for layer in adapted_layers(model, adapter_name).values():
                share_start(layer.tensors_of(adapter_name), group)
        keep_layouts(model)
        count_weight_owners(model)

    def _put_in(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config: Any = self.peft_config[adapter_name]
        with warnings.catch_warnings():
            # PEFT compares the patterns with names of target modules alone: not with parameters,
            # layers inside of a target, or the names that modules have without wrappers.
            warnings.filterwarnings("ignore", r"The following \w+_pattern keys")
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        adapted = adapted_layers(model, adapter_name)
        if _has_parameters(config) and not adapted:
            raise UserError(
                f"target_parameters={config.target_parameters}: exclude_modules, modules_to_save "
                "and layers_to_transform leave none of them: change one of these."
            )
        _warn_of_unmatched_patterns(config, adapted)

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Add the change of the named (or active) adapters to the base weights."""
        self._check_merge(adapter_names or self.active_adapters, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        """Return the base model with the adapters' change in its weights.

        Where layers were quantized, the model is a plain one in the dtype that it computes in, as
        if it had been loaded without quantization: see `AdaptedLayer.merge`. Tied modules of which
        one is changed are untied, each with a weight of its own, also in the config.
        """
        self._check_merge(adapter_names or self.active_adapters, safe_merge)
        layers = modules_of_type(self.model, AdaptedLayer)
        dtype = next((layer.plain_dtype for layer in layers if layer.is_quantized), None)
        with untying_broken_ties(self.model):
            merged = super().merge_and_unload(progressbar, safe_merge, adapter_names)
            if dtype is not None:
                dequantize_model(merged, dtype)
        return merged

    def _check_merge(self, adapter_names: list[str], safe_merge: bool) -> None:
        """Check all layers, so that none is merged if one is refused."""
        check_layers_are_in_one_place(self.model)
        check_rows_apart(self.model, adapter_names)
        # Weights may have been tied or loaded since the adapters were added.
        count_weight_owners(self.model)
        for name, layer in self.model.named_modules():
            if isinstance(layer, AdaptedLayer):
                with _naming(name), onload_layer(layer) if safe_merge else nullcontext():
                    layer.check_merge(adapter_names, safe_merge)
        warn_of_own_forwards(self.model, adapter_names)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names` to every adapted layer for one forward pass (PEFT's hook)."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        check_mixed_batch(self, self.peft_config, adapter_names)
        with adapter_of_each_row(self, adapter_names, beams=kwargs.get("num_beams") or 1):
            yield


@contextmanager
def _naming(layer_name: str) -> Iterator[None]:
    """Name the layer that cannot be merged.

    Raises:
        UserError: with the layer's own reason.
        MergedWeightError: its merged weight would hold NaN or infinity.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"{layer_name}: {error}") from error
    except ValueError as error:
        raise MergedWeightError(
            f"NaN or infinity in the merged weight of {layer_name} ({error}): load the model in "
            "float32 to merge, or train the adapter again."
        ) from error


def _has_parameters(config: Any) -> bool:
    return config.adapts_parameters and bool(config.target_parameters)


def _warn_of_unmatched_patterns(config: Any, names: Iterable[str]) -> None:
    parameters = {parameter_of(name) or name for name in names}
    for field in ("rank_pattern", "alpha_pattern"):
        found = unmatched(getattr(config, field, None) or {}, {*names, *parameters})
        if found:
            # PEFT has a sentence of its own for it.
            warnings.warn(
                f"The following {field} keys did not match any targeted module and were ignored: "
                f"{found}.",
                RuntimeWarning,
                stacklevel=3,
            )
