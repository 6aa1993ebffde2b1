"""What a saved adapter holds, and how one of another size is loaded.

A finished adapter is saved compact: a matrix that kept r' < k singular values is saved with k and r
of r', which its change needs (`lora2.mathematics.compaction`), and one that kept none is empty. The
saved config's patterns have these sizes, and the lora_alpha with which the scaling stays the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora2.errors import NumericalError, UserError
from lora2.tuners.base.config.patterns import pattern_for
from lora2.tuners.base.distributed.gathering import is_plain
from lora2.tuners.base.names.compiled_names import name_before_wrapping
from lora2.tuners.base.names.peft_names import PREFIX, ROWS_TENSOR, prefix_of
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.factor_table import FACTORS
from lora2.tuners.lora2.frozen_empty import stay_frozen_with_others
from lora2.tuners.lora2.layer import Lora2Layer, lora2_layers
from lora2.tuners.lora2.matrix_size import largest_rank

_OWN_NAMES = frozenset(factor.attribute for factor in FACTORS.values())


def is_of_adapter(name: str) -> bool:
    """Whether a saved tensor of this name is a factor or rows of tokens, and not of the head."""
    return name.rpartition(".")[-1] in _OWN_NAMES or name.endswith(ROWS_TENSOR)


def compact_state_dict(
    model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the adapter's state dict with finished layers as small as what they have kept."""
    result = dict(state_dict)
    for name, layer in lora2_layers(model, adapter_name).items():
        if not layer.lora2_states[adapter_name].is_finished:
            continue
        keys = _keys(name, adapter_name)
        if all(key in result for key in keys.values()):
            stored = {symbol: result[key] for symbol, key in keys.items()}
            _check_finite(name, stored)
            small = layer.compacted(adapter_name, stored)
            result |= {keys[symbol]: tensor for symbol, tensor in small.items()}
    return result


def remember_sizes(
    model: nn.Module, config: Lora2Config, adapter_name: str, state_dict: dict[str, Tensor]
) -> None:
    """Make the config's next file give every module the sizes that the state dict has for it."""
    ranks: dict[str, int] = {}
    widths: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, layer in lora2_layers(model, adapter_name).items():
        u = state_dict.get(_keys(name, adapter_name)["u"])
        if u is None:
            continue
        short_name = _short(name)
        ranks[short_name] = u.shape[1]
        asked, _, alpha = config.asked_for(short_name)
        # An empty module has no width, and none is needed.
        as_asked = not len(u) or largest_rank(layer.matrix_shape(), asked) == len(u)
        widths[short_name] = asked if as_asked else len(u)
        alphas[short_name] = _alpha_for(layer.initial_scaling(adapter_name), len(u), alpha, config)
    config.save_next_with(
        {
            "k_pattern": pattern_for(widths, config.k_pattern, config.k),
            "rank_pattern": pattern_for(ranks, config.rank_pattern, config.init_r),
            "alpha_pattern": pattern_for(alphas, config.alpha_pattern, config.lora_alpha),
        }
    )


def _alpha_for(scaling: float, k: int, alpha: float, config: Lora2Config) -> float:
    """Return the lora_alpha with which a matrix of width k has this scaling: `alpha`, if it does.

    The scaling is lora_alpha / k, and must stay what it was when k has become smaller.
    """
    if not k or config.scaling(k, config.init_r, alpha) == scaling:
        return alpha
    return scaling * k


def without_pruned_modules(
    model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return a state dict in which modules without singular values are empty.

    Files of older versions have the outer factors of such modules, which change nothing.
    """
    result = dict(state_dict)
    for name, layer in lora2_layers(model, adapter_name).items():
        keys = _keys(name, adapter_name)
        if all(key in result for key in keys.values()) and not len(result[keys["lam"]]):
            d_out, d_in = layer.matrix_shape()
            for symbol, key in keys.items():
                shape = FACTORS[symbol].shape(d_in=d_in, d_out=d_out, k=0, r=0)
                result[key] = result[key].new_empty(shape)
    return result


def resize_for(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Give every adapted layer the r that the state dict (keys of the model) has for it.

    Raises:
        UserError: another k than that of a layer whose training is not over. Its scaling depends
            on k; that of a finished layer stays what it was in training, as saving it counts on.
    """
    sizes: list[tuple[Lora2Layer, int, int]] = []
    layers = lora2_layers(model, adapter_name)
    for name, layer in layers.items():
        keys = _keys(name, adapter_name)
        if all(key in state_dict for key in keys.values()):
            k, r = state_dict[keys["u"]].shape
            if r and not layer.can_take(adapter_name, k, r):
                own, _ = layer.sizes_of(adapter_name)
                raise UserError(
                    f"k={own} of {name} in the model, and {k} in the saved adapter: give the "
                    "config the k that it was trained with, or load an adapter that was pruned "
                    "with its own config, by PeftModel.from_pretrained or by load_adapter under a "
                    "new adapter name."
                )
            sizes.append((layer, k, r))
    stay_frozen_with_others(layers.values(), adapter_name)
    for layer, k, r in sizes:
        layer.resize_adapter(adapter_name, k, r)


@torch.no_grad()
def compact_adapter(model: nn.Module, adapter_name: str = "default") -> None:
    """Drop pruned singular values from memory, in place; the model computes the same as before.

    The parameters are new tensors afterwards: an optimizer made before does not know them.
    Parameters that FSDP2 has sharded stay as they are, and are compact once they are saved.

    Raises:
        UserError: the model has no such adapter.
        NumericalError: NaN or infinity in one of its factors.
    """
    layers = lora2_layers(model, adapter_name)
    if not layers:
        raise UserError(
            f"adapter_name={adapter_name!r}: the model has no LoRA² adapter of that name to make "
            "smaller."
        )
    factors = {name: layer.parameters_of(adapter_name) for name, layer in layers.items()}
    plain = {name: each for name, each in factors.items() if is_plain(each.values())}
    # Before any layer is made smaller.
    for name, each in plain.items():
        _check_finite(name, each)
    for name, layer in layers.items():
        if name in plain:
            layer.compact(adapter_name)
        else:
            layer.lora2_states[adapter_name].is_finished = True


def _check_finite(name: str, factors: Mapping[str, Tensor]) -> None:
    if not all(bool(factor.isfinite().all()) for factor in factors.values()):
        raise NumericalError(
            f"NaN or infinity in a factor of {name}, which has no smaller form: train the adapter "
            "again, or load it from a checkpoint."
        )


def _short(module_name: str) -> str:
    """Return the name that the patterns of a config are matched against."""
    return name_before_wrapping(module_name.removeprefix(PREFIX))


def _keys(module_name: str, adapter_name: str) -> dict[str, str]:
    return {
        symbol: f"{prefix_of(module_name)}{factor.attribute}.{adapter_name}"
        for symbol, factor in FACTORS.items()
    }
