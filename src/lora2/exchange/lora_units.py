"""Groups the layers that share one LoRA: a target module and what is in it, or all experts."""

from __future__ import annotations

from collections.abc import Iterable

from lora2.errors import UserError
from lora2.tuners.base.layers.experts import parameter_of
from lora2.tuners.base.names.peft_names import target_of


def units_of(layers: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the layers of each unit, by its name: a target module, or a parameter."""
    units: dict[str, list[str]] = {}
    for name in layers:
        units.setdefault(parameter_of(name) or target_of(name), []).append(name)
    return units


def check_none_is_in_a_module_of_parameters(layers: Iterable[str], advice: str) -> None:
    """Check that no adapted layer is in a module of which a parameter has an adapter, too.

    layers: their names, where the layer around another one has the name before ".base_layer.".

    Raises:
        UserError: one is. PEFT's LoRA has a name for it that depends on the number of parameters.
    """
    names = list(layers)
    owners = {(parameter_of(name) or "").rpartition(".")[0] for name in names} - {""}
    for name in names:
        if ".base_layer." in name and target_of(name) in owners:
            raise UserError(
                f"{name}: it is in {target_of(name)}, of which a parameter has an adapter, too, "
                f"and such an adapter is not written or read as a LoRA; {advice}."
            )
