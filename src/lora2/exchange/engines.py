"""What engines ask of a LoRA, as data, and whether one meets it.

Read in the source of vLLM 0.33, SGLang 0.5.23 and llama.cpp's converter of November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Engine:
    """The rules of one engine.

    Attributes:
        name: with the version that was read.
        needed: fields that adapter_config.json must have.
        largest_rank: of any module; None if there is no limit.
        mixed_ranks: whether modules may differ in rank.
        whole_modules: the names that modules_to_save may have.
        root_scaling: whether it computes rsLoRA's scaling, alpha / sqrt(r).
        transposed: whether it takes layers whose base weight is stored transposed, as GPT-2's.
    """

    name: str
    needed: tuple[str, ...]
    largest_rank: int | None = None
    mixed_ranks: bool = False
    whole_modules: frozenset[str] = frozenset()
    root_scaling: bool = False
    transposed: bool = True


ENGINES = (
    Engine(
        "vLLM 0.33",
        ("r", "lora_alpha", "target_modules"),
        largest_rank=512,
        mixed_ranks=True,
        whole_modules=frozenset({"classifier", "score"}),
        root_scaling=True,
    ),
    Engine("SGLang 0.5.23", ("peft_type", "r", "lora_alpha", "target_modules")),
    # Its converter turns such a base weight around, and the factors with it, which are not.
    Engine("llama.cpp", ("lora_alpha", "base_model_name_or_path"), transposed=False),
)

_ENDINGS = (".lora_A.weight", ".lora_B.weight")


def objections(
    engine: Engine, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Return why an engine will not serve a LoRA as what it is; nothing if it will.

    config: what adapter_config.json holds; shapes: of the tensors, by their names in the file.
    """
    found = [f"no {name} in the config" for name in engine.needed if config.get(name) is None]
    if config.get("peft_type") not in (None, "LORA"):
        found.append(f"peft_type {config['peft_type']}")
    if config.get("bias", "none") != "none":
        found.append(f"bias {config['bias']!r}")
    if config.get("target_parameters"):
        # Engines have forms of their own for them, which were not read.
        found.append("target_parameters, weights of experts")
    if config.get("use_dora"):
        found.append("DoRA")
    if config.get("use_rslora") and not engine.root_scaling:
        found.append("rsLoRA's scaling")
    if config.get("fan_in_fan_out") and not engine.transposed:
        found.append("layers whose weight is stored transposed (Conv1D); export to merged for it")
    if config.get("trainable_token_indices"):
        found.append("trainable_token_indices, rows of an embedding; export to merged for it")
    whole = set(config.get("modules_to_save") or ())
    if whole - engine.whole_modules:
        found.append(f"modules_to_save {', '.join(sorted(whole - engine.whole_modules))}")
    return found + _objections_to_tensors(engine, config, shapes, whole)


def _objections_to_tensors(
    engine: Engine,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    whole: set[str],
) -> list[str]:
    found = []
    whole = whole | {"token_adapter"}
    parts = {name: shape for name, shape in shapes.items() if not _is_of(name, whole)}
    strange = [n for n, shape in parts.items() if not n.endswith(_ENDINGS) or len(shape) != 2]
    if strange:
        found.append(f"a layer that is not linear ({strange[0]})")
    in_pattern = set((config.get("rank_pattern") or {}).values())
    ranks = {shape[0] for name, shape in parts.items() if name.endswith(_ENDINGS[0])}
    if config.get("target_parameters"):
        # lora_A of a parameter has the rows of all experts, so its size is no rank.
        ranks = {config.get("r") or 1, *in_pattern}
    if 0 in ranks | in_pattern:
        found.append("rank 0")
    if engine.largest_rank is not None and max(ranks, default=0) > engine.largest_rank:
        found.append(f"rank {max(ranks)}, above {engine.largest_rank}")
    if len(ranks) > 1 and not engine.mixed_ranks:
        found.append("modules of several ranks")
    return found


def _is_of(name: str, modules: set[str]) -> bool:
    return bool(modules & set(name.split(".")))
