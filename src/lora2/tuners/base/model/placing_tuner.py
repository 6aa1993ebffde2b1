"""What all tuners of this package do about where tensors are, and which code reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.dtensors import is_dtensor
from lora2.tuners.base.distributed.gathering import whole_by_name
from lora2.tuners.base.distributed.zero import with_partitioned
from lora2.tuners.base.layers.base_attributes import BaseAttributes, base_of
from lora2.tuners.base.model.fast_path import leave_fast_path, restore
from lora2.tuners.base.names.adapter_names import check_adapter_name, check_names_apart
from lora2.tuners.base.names.compiled_names import (
    NamedAsInStateDict,
    name_before_wrapping,
    name_in_state_dict,
)
from lora2.tuners.base.offloading import execution_device, loaded_by_name
from lora2.tuners.base.token_rows.checks import check_rows, check_rows_merge
from lora2.tuners.base.token_rows.wrappers import complete_wrappers


class PlacingTuner(BaseTuner):
    """A tuner that keeps new adapters in memory, and saves tensors wherever they are."""

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Put an adapter into the model, the first one or a later one."""
        check_adapter_name(adapter_name)
        check_rows(model, self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if len(self.peft_config) > 1:
            try:
                check_names_apart(self.peft_config, model)
            except UserError:
                self.delete_adapter(adapter_name)
                raise
        complete_wrappers(model)
        encoders: list[nn.TransformerEncoder] = self.__dict__.setdefault("_nested_encoders", [])
        encoders += leave_fast_path(model)

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> Any:
        return BaseTuner._check_target_module_exists(peft_config, name_in_state_dict(key))

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype:
            return
        # Without it an adapter has the dtype of its base, also one with the values of a file.
        for module in self.model.modules():
            if isinstance(module, BaseAttributes):
                module.move_to_base_layer(adapter_name)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        check_rows_merge(self.model)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        unloaded = super()._unload_and_optionally_merge(*args, **kwargs)
        restore(self.__dict__.pop("_nested_encoders", []))
        return unloaded

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # PEFT's own hands a weight on when it unloads, which a head of several layers and attention
        # do not have, and moves the adapter to the device of the weight: if that is offloaded, no
        # values are there.
        if not isinstance(new_module, BaseTunerLayer) or _is_on_offloaded_weight(new_module):
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        named: Any = NamedAsInStateDict(model)
        # PEFT reads the modules that are trained whole from the same dictionary afterwards, by
        # their names in the model.
        wrappers = {
            f"{in_state_dict}.": f"{name}."
            for (in_state_dict, module), (name, _) in zip(
                named.named_modules(), model.named_modules(), strict=True
            )
            if isinstance(module, AuxiliaryTrainingWrapper)
        }
        extra = {
            name + key.removeprefix(in_state_dict): value
            for in_state_dict, name in wrappers.items()
            for key, value in state_dict.items()
            if key.startswith(in_state_dict)
        }
        given = list(state_dict)
        state_dict.update(_here_as_wholes(model, extra))
        selected = super()._get_adapter_state_dict(
            named, config, adapter_name, state_dict, unwanted_adapter_names
        )
        if given:
            _check_has_all(selected, cls._tensor_names(named, adapter_name), adapter_name)
        return _here_as_wholes(model, selected)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        named: Any = NamedAsInStateDict(model)
        return super()._remap_adapter_state_dict_for_load(named, config, adapter_name, state_dict)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return super()._remove_adapter_name_from_key(name_before_wrapping(key), adapter_name)

    @classmethod
    def _tensor_names(cls, named: NamedAsInStateDict, adapter_name: str) -> Iterator[str]:
        """Yield the names of the tensors of an adapter's layers."""
        for name, layer in named.named_modules():
            if not isinstance(layer, cls.tuner_layer_cls):
                continue
            for attribute in layer.adapter_layer_names:
                held = getattr(layer, attribute)
                if adapter_name in held:
                    own = held[adapter_name]
                    inside = own.state_dict() if isinstance(own, nn.Module) else [""]
                    yield from (
                        f"{name}.{attribute}.{adapter_name}.{each}".rstrip(".") for each in inside
                    )


def _check_has_all(selected: Any, names: Iterator[str], adapter_name: str) -> None:
    missing = [name for name in names if name not in selected]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"Adapter {adapter_name!r} would be saved without {missing[0]}{more}, which the state "
            "dict does not have by these names: give the state dict of the whole model, or take "
            "the modules out of the wrappers around them."
        )


def check_is_not_split(target: nn.Module, module_name: str) -> None:
    """Check that the weight under a new adapter is whole in this process.

    Raises:
        UserError: tensor parallelism or FSDP2 has split it over processes.
    """
    base = base_of(target)
    weight = getattr(base, "weight", None)
    if isinstance(weight, Tensor) and is_dtensor(weight):
        raise UserError(
            f"The weight of {module_name} is split over several processes, and an adapter must be "
            "added before that: load the base model without tensor parallelism, which this method "
            "does not have, and call fully_shard after get_peft_model."
        )


def _is_on_offloaded_weight(layer: BaseTunerLayer) -> bool:
    return execution_device(layer.get_base_layer()) is not None


def _here_as_wholes(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return whole_by_name(with_partitioned(model, loaded_by_name(model, tensors)))
