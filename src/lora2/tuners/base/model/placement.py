"""Where the adapters of a module are: found by their layers, however the module is wrapped.

PEFT keeps the configs in a dictionary `peft_config` of the PEFT model and of the base model inside
it. The module that is trained may be another one around them: a module of the user's own, with
one PEFT model or several, a SentenceTransformer, DistributedDataParallel, or a compiled model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from peft import PeftModel
from peft.config import PeftConfig
from torch import nn

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.finding import adapted_layers
from lora2.tuners.base.names.compiled_names import name_in_state_dict
from lora2.tuners.base.names.peft_names import prefix_of

ConfigT = TypeVar("ConfigT", bound=PeftConfig)


@dataclass(frozen=True)
class PlacedAdapter(Generic[ConfigT]):
    """One adapter of one PEFT model.

    Attributes:
        name: its name in the PEFT model.
        label: a name that no other adapter of the whole module has; `name`, if that is enough.
        config: its config.
        configs: the dictionary of all configs of its PEFT model, by name of the adapter.
        module: the module in which `name` means this adapter alone: the whole one, or the
            PEFT model if another PEFT model in the whole module has an adapter of this name.
        outer: the name of its PEFT model in the whole module; "" if it is the whole one.
        base: the name of the base model that the PEFT model is made of, in the whole module.
        layers: its layers by their name in the whole module.
    """

    name: str
    label: str
    config: ConfigT
    configs: dict[str, PeftConfig]
    module: nn.Module
    outer: str
    base: str
    layers: dict[str, AdaptedLayer]

    @property
    def is_trained(self) -> bool:
        """Whether the adapter is active, enabled and has a trainable parameter."""
        return any(layer.trains(self.name) for layer in self.layers.values())


@dataclass(frozen=True)
class _Host:
    """A PEFT model: the names of its outermost module and of the base model inside it."""

    outer: str
    base: str
    configs: dict[str, PeftConfig]


def find_adapters(model: nn.Module, config_type: type[ConfigT]) -> list[PlacedAdapter[ConfigT]]:
    """Return the adapters that have a config of this type, in the order of the model."""
    hosts = _hosts_in(model)
    found = []
    for host in hosts:
        for name, config in host.configs.items():
            if isinstance(config, config_type):
                layers = _layers_of(model, host, name, hosts)
                if layers:
                    found.append((host, name, config, layers))
    names = [name for _, name, _, _ in found]
    adapters = []
    for host, name, config, layers in found:
        is_only_one = names.count(name) == 1
        adapters.append(
            PlacedAdapter(
                name=name,
                label=name if is_only_one else prefix_of(host.outer) + name,
                config=config,
                configs=host.configs,
                module=model if is_only_one else model.get_submodule(host.outer),
                outer=host.outer,
                base=host.base,
                layers=layers,
            )
        )
    return adapters


def trained_adapters(model: nn.Module, config_type: type[ConfigT]) -> list[PlacedAdapter[ConfigT]]:
    """Return those of these adapters that are active, enabled and have a trainable parameter."""
    return [adapter for adapter in find_adapters(model, config_type) if adapter.is_trained]


def adapters_named(
    model: nn.Module, name: str, config_type: type[ConfigT], method: str
) -> list[PlacedAdapter[ConfigT]]:
    """Return the adapters of this name; more than one where several PEFT models have it.

    Raises:
        UserError: there is none.
    """
    found = find_adapters(model, config_type)
    named = [adapter for adapter in found if adapter.name == name]
    if named:
        return named
    if isinstance(model, nn.Module) and adapted_layers(model, name):
        raise UserError(
            f"model: the layers of adapter {name!r} are in this {type(model).__name__}, and its "
            "config is not: pass the whole PEFT model."
        )
    others = ", ".join(repr(adapter.label) for adapter in found)
    raise UserError(
        f"adapter_name={name!r}: the model has no {method} adapter of that name; "
        + (
            f"choose from {others}."
            if others
            else f"wrap it with get_peft_model(model, {config_type.__name__}(...)) first."
        )
    )


def _hosts_in(model: nn.Module) -> list[_Host]:
    hosts: dict[int, _Host] = {}
    for name, module in model.named_modules():
        # `getattr` would be wrong: PEFT's and torch's wrappers answer for the model inside them.
        configs: Any = vars(module).get("peft_config")
        if isinstance(configs, dict):
            outer = hosts[id(configs)].outer if id(configs) in hosts else _outermost(model, name)
            hosts[id(configs)] = _Host(outer, name, configs)
    return list(hosts.values())


def _outermost(model: nn.Module, name: str) -> str:
    """The PeftModel around a tuner, which has the tuner's configs without holding them."""
    parent = name.rpartition(".")[0]
    return parent if isinstance(model.get_submodule(parent), PeftModel) else name


def _layers_of(
    model: nn.Module, host: _Host, adapter_name: str, hosts: Iterable[_Host]
) -> dict[str, AdaptedLayer]:
    """The layers of one PEFT model's adapter by their name in the whole module."""
    inside = prefix_of(name_in_state_dict(host.base))
    # A PEFT model inside the base model has adapters of its own.
    nested = tuple(
        base
        for other in hosts
        if other is not host and adapter_name in other.configs
        if (base := prefix_of(name_in_state_dict(other.base))).startswith(inside)
    )
    return {
        name: layer
        for name, layer in adapted_layers(model, adapter_name).items()
        if name.startswith(inside) and not name.startswith(nested)
    }
