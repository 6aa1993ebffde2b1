"""What a saved adapter holds, and how one of another size is loaded.

A finished adapter is saved compact: singular values that are exactly zero are left out with their
column of u and row of 𝒰. The length of λ in the file is the module's number of singular values;
on loading, a module takes the size that the file has. The saved config's `rank_pattern` has it too.
"""

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.factors import FACTORS, INNER
from lora2.tuners.lora2.layer import Lora2Layer, adapted_layers


def kept_factors(factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inner factors without the singular values that are exactly zero; Δ is the same."""
    kept = (factors["lam"] != 0).nonzero().flatten()
    return {
        symbol: factors[symbol].index_select(FACTORS[symbol].value_dimension, kept)
        for symbol in INNER
    }


def compact_state_dict(
    model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the adapter's state dict with the pruned values of finished layers left out."""
    result = dict(state_dict)
    for name, layer in adapted_layers(model, adapter_name).items():
        if adapter_name not in layer.lora2_finished:
            continue
        keys = _keys(name, adapter_name)
        if all(key in result for key in keys.values()):
            kept = kept_factors({symbol: result[key] for symbol, key in keys.items()})
            result |= {keys[symbol]: tensor for symbol, tensor in kept.items()}
    return result


def remember_sizes(
    model: nn.Module, config: Lora2Config, adapter_name: str, state_dict: dict[str, Tensor]
) -> None:
    """Make the config, once saved, give every module the k and r that the state dict has for it."""
    ranks: dict[str, int] = {}
    widths: dict[str, int] = {}
    for name, layer in adapted_layers(model, adapter_name).items():
        u = state_dict.get(_keys(name, adapter_name)["u"])
        if u is not None:
            # The name that the config's patterns are matched against.
            short_name = name.removeprefix("base_model.model.")
            ranks[short_name] = u.shape[1]
            asked = _looked_up(config.k_pattern, short_name, config.k)
            widths[short_name] = asked if min(asked, *layer.matrix_shape()) == len(u) else len(u)
    config.remember_saved_patterns(
        pattern_for(widths, config.k_pattern, config.k),
        pattern_for(ranks, config.rank_pattern, config.init_r),
    )


def pattern_for(sizes: dict[str, int], pattern: dict[str, int], default: int) -> dict[str, int]:
    """Return `pattern` if it gives these sizes even once it is saved, else one entry a module."""
    # PEFT sorts what it saves, and the first pattern that matches counts.
    reloaded = dict(sorted(pattern.items()))
    if all(_looked_up(reloaded, name, default) == size for name, size in sizes.items()):
        return pattern
    # A name would match every longer one that ends in it, too.
    ambiguous = {name for name in sizes for other in sizes if other.endswith("." + name)}
    return {
        f"^{name}" if name in ambiguous else name: size
        for name, size in sizes.items()
        if size != default
    }


def _looked_up(pattern: dict[str, int], name: str, default: int) -> int:
    return pattern.get(get_pattern_key(list(pattern), name), default)


def resize_for(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Give every adapted layer the r that the state dict (keys of the model) has for it.

    Raises:
        UserError: another k than the layer's, on which its scaling depends.
    """
    sizes: list[tuple[Lora2Layer, int, int]] = []
    for name, layer in adapted_layers(model, adapter_name).items():
        keys = _keys(name, adapter_name)
        if all(key in state_dict for key in keys.values()):
            k, r = state_dict[keys["u"]].shape
            own, _ = layer.sizes_of(adapter_name)
            if k != own:
                raise UserError(
                    f"k={own} of {name} in the model, and {k} in the saved adapter: give the "
                    "config the k that it was trained with."
                )
            sizes.append((layer, k, r))
    for layer, k, r in sizes:
        layer.resize_adapter(adapter_name, k, r)


@torch.no_grad()
def compact_adapter(model: nn.Module, adapter_name: str = "default") -> None:
    """Drop pruned singular values from memory, in place; the model computes the same as before.

    The parameters are new tensors afterwards: an optimizer made before does not know them.
    """
    for layer in adapted_layers(model, adapter_name).values():
        parameters = layer.parameters_of(adapter_name)
        kept = kept_factors({symbol: tensor.data for symbol, tensor in parameters.items()})
        layer.resize_adapter(adapter_name, *kept["u"].shape)
        for symbol, tensor in kept.items():
            layer.parameters_of(adapter_name)[symbol].copy_(tensor)


def _keys(module_name: str, adapter_name: str) -> dict[str, str]:
    prefix = f"{module_name}." if module_name else ""
    return {
        symbol: f"{prefix}{factor.attribute}.{adapter_name}" for symbol, factor in FACTORS.items()
    }
