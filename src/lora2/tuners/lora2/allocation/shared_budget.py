"""Which layers one allocator prunes: those of an adapter, in one PEFT model or several."""

from __future__ import annotations

from torch import nn

from lora2.errors import UserError
from lora2.tuners.base.model.placement import PlacedAdapter, adapters_named
from lora2.tuners.lora2.config import SCHEDULE_FIELDS, Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer

# What must be the same where several PEFT models share one budget.
_SHARED = ("init_r", *SCHEDULE_FIELDS)


def layers_and_config(
    model: nn.Module, adapter_name: str
) -> tuple[dict[str, Lora2Layer], Lora2Config]:
    """Return the layers of an adapter by module name, and its config.

    Of several PEFT models that have an adapter of this name, those that train it share the budget.

    Raises:
        UserError: there is no such adapter, or the schedules of several are not the same.
    """
    found = adapters_named(model, adapter_name, Lora2Config, "LoRA²")
    adapters = [adapter for adapter in found if adapter.is_trained] or found
    _check_schedules(adapters)
    layers = {
        name: layer
        for adapter in adapters
        for name, layer in adapter.layers.items()
        if isinstance(layer, Lora2Layer)
    }
    return layers, adapters[0].config


def _check_schedules(adapters: list[PlacedAdapter[Lora2Config]]) -> None:
    first = adapters[0]
    # In this form the window is in numbers, whether a config was loaded or has the default.
    fields = first.config.to_dict()
    for other in adapters[1:]:
        others = other.config.to_dict()
        for field in _SHARED:
            values = fields[field], others[field]
            if values[0] != values[1]:
                raise UserError(
                    f"adapter_name={first.name!r}: the PEFT models {first.outer!r} and "
                    f"{other.outer!r} both have it, with {field}={values[0]!r} and "
                    f"{field}={values[1]!r}: make one RankAllocator for each PEFT model."
                )
