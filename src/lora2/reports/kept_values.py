"""Kept singular values of a saved adapter, by layer and matrix (the paper's Figure 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lora2.tuners.base.config.patterns import looked_up
from lora2.tuners.base.finite_checks import check_weights
from lora2.tuners.base.layers.experts import parameter_of
from lora2.tuners.base.loading import saved_tensors
from lora2.tuners.base.names.peft_names import PREFIX
from lora2.tuners.lora2.factor_table import FACTORS

_SUFFIX = f".{FACTORS['lam'].attribute}"


@dataclass(frozen=True)
class KeptGrid:
    """Counts by layer and matrix.

    Attributes:
        layers: names of the rows: the layer's number, or "" for modules outside the layers. Where
            an encoder and a decoder have the same numbers, "encoder.0" and "decoder.0".
        matrices: names of the columns, in the order of the model.
        parameters: the same without the number of an expert: one name for the columns of all
            experts of a parameter.
        counts: kept singular values [layers][matrices], or means of them over several adapters;
            None where a layer has no such matrix.
        initial: singular values that all matrices started with; None if that is not known.
        largest: the most that a matrix started with or has.
    """

    layers: tuple[str, ...]
    matrices: tuple[str, ...]
    parameters: tuple[str, ...]
    counts: tuple[tuple[float | None, ...], ...]
    initial: int | None
    largest: int

    @property
    def total(self) -> float:
        """Kept singular values of all matrices."""
        return sum(count or 0 for row in self.counts for count in row)

    @property
    def share_in_words(self) -> str:
        """What is kept, of what there was."""
        return f"{round(self.total, 1):g}" + ("" if self.initial is None else f" of {self.initial}")


def initial_ranks(modules: Iterable[str], options: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the singular values that modules of a run started with, from the run's options.

    None of a run that started from an adapter, whose ranks are its own.
    """
    if options.get("start_from") is not None:
        return None
    pattern = options.get("rank_pattern") or {}
    return {module: looked_up(pattern, module, options["init_r"]) for module in modules}


def read_kept(weights: Path) -> dict[str, int]:
    """Return the number of singular values that are not zero, by module; no model is needed.

    Raises:
        UserError: the file is missing or damaged.
        NumericalError: naming the module whose singular values hold NaN or infinity.
    """
    saved_tensors(weights)
    with safe_open(weights, framework="pt") as file:
        values = {
            key.removesuffix(_SUFFIX).removeprefix(PREFIX): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118 (not a dictionary)
            if key.endswith(_SUFFIX)
        }
    check_weights(values, str(weights), "copy the file again, or train the adapter again.")
    return {module: int((tensor != 0).sum()) for module, tensor in values.items()}


def kept_grid(kept: Mapping[str, int], initial: Mapping[str, int] | None) -> KeptGrid:
    """Arrange counts by module name into layers and matrices.

    initial: what each module started with, None if that is not known.
    """
    places = _places(kept)
    layers = sorted({layer for layer, _ in places.values()}, key=_order_of_layers)
    # Safetensors are sorted by name; the order of computation is easier to read.
    matrices = sorted({matrix for _, matrix in places.values()}, key=_order)
    by_place = {place: kept[module] for module, place in places.items()}
    short = Counter(map(_short, matrices))
    shown = {m: m if short[_short(m)] > 1 else _short(m) for m in matrices}
    return KeptGrid(
        layers=tuple(layers),
        matrices=tuple(shown.values()),
        parameters=tuple(
            _numbered(name)[0] if _is_of_expert(m) else name for m, name in shown.items()
        ),
        counts=tuple(tuple(by_place.get((layer, m)) for m in matrices) for layer in layers),
        initial=None if initial is None else sum(initial[module] for module in kept),
        largest=max([*kept.values(), *(initial or {}).values()]),
    )


def summed_over_experts(grid: KeptGrid) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return columns, and rows by layer, with one column for all experts of a parameter."""
    places: dict[str, list[int]] = {}
    for position, parameter in enumerate(grid.parameters):
        places.setdefault(parameter, []).append(position)
    rows = {
        layer: [_sum([counts[position] for position in each]) for each in places.values()]
        for layer, counts in zip(grid.layers, grid.counts, strict=True)
    }
    return list(places), rows


def _sum(counts: Iterable[float | None]) -> float | None:
    there = [count for count in counts if count is not None]
    return sum(there) if there else None


def _is_of_expert(matrix: str) -> bool:
    """Whether it is one of the matrices of a parameter, and no member of an nn.Sequential."""
    return parameter_of(matrix) is not None


def _numbered(name: str) -> tuple[str, int]:
    """Split a name at its last number: ("gate_up_proj", 3)."""
    before, _, number = name.rpartition(".")
    return (before, int(number)) if number.isdigit() else (name, 0)


def _places(modules: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return row and column of each module: ("3", "attention.self.query")."""
    split = {module: _split(module) for module in modules}
    places = {module: (number, matrix) for module, (_, number, matrix) in split.items()}
    if len(set(places.values())) == len(places):
        return places
    # The name of a stack is what it has before the number, without the parts that all stacks have.
    stacks = {before for before, number, _ in split.values() if number}
    common = set.intersection(*map(set, stacks))
    return {
        module: (".".join([*(part for part in before if part not in common), number]), matrix)
        for module, (before, number, matrix) in split.items()
    }


def _split(module: str) -> tuple[tuple[str, ...], str, str]:
    """Split a module's name at the number of its layer, "" and all of the name if it has none."""
    parts = module.split(".")
    numbers = [position for position, part in enumerate(parts) if part.isdigit()]
    if not numbers or numbers[0] == len(parts) - 1:
        # The name has no number, or it is that of a member of an nn.Sequential outside the layers.
        return (), "", module
    return tuple(parts[: numbers[0]]), parts[numbers[0]], ".".join(parts[numbers[0] + 1 :])


def _order_of_layers(name: str) -> tuple[bool, str, int]:
    """An encoder comes before its decoder, because it is computed first."""
    stack, _, number = name.rpartition(".")
    return "decoder" in stack, stack, int(number or -1)


# Parts of matrix names in the order in which a layer computes with them.
_COMPUTED = ("query", "q_", "attn.q", "key", "k_", "attn.k", "value", "v_", "attn.v", "c_attn")
_AFTER = ("attention", "attn", "out_lin", "o_proj")
_FEED_FORWARD = ("intermediate", "lin1", "fc1", "gate", "up_", "c_fc")


def _order(matrix: str) -> tuple[int, str, int]:
    for rank, parts in enumerate((*((part,) for part in _COMPUTED), _AFTER, _FEED_FORWARD)):
        if any(part in matrix for part in parts):
            return rank, *_numbered(matrix)
    return len(_COMPUTED) + 2, *_numbered(matrix)


def _short(matrix: str) -> str:
    """Return the last two parts at most: attention.self.query → query; of a dense layer, all parts.

    Of experts, mlp.experts.matrices.gate_up_proj.3 → gate_up_proj.3; of an nn.Sequential, mlp.2.
    """
    parts = [part for part in matrix.split(".") if part not in ("self", "layer", "matrices")]
    if not parts:
        return matrix
    if _is_of_expert(matrix) and parts[-2] == "weight":
        # A router's weight has this matrix alone.
        return ".".join(parts[-3:-1])
    if parts[-1].isdigit():
        return ".".join(parts[-2:])
    if parts[-1] in ("dense", "proj"):
        return ".".join(parts)
    return parts[-1]
