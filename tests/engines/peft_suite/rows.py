"""LoRA's rows of PEFT's test_custom_models, and LoRA² rows made from them."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig

from lora2 import Lora2Config

Row = tuple[Any, ...]

_SAME_FIELDS = {
    "target_modules", "modules_to_save", "lora_alpha", "lora_dropout", "trainable_token_indices",
}  # fmt: skip
_RENAMED_FIELDS = {"r": "k", "init_lora_weights": "init_weights"}

# Fields of LoRA's rows that Lora2Config does not have: such a row has no LoRA² row.
FIELDS_OF_LORA_ALONE = {
    "use_dora": "DoRA is a method of its own: LoRA with a magnitude a column.",
    "kasa_config": "KaSA is a method of its own: it truncates the base weight at the start.",
    "velora_config": "VeLoRA compresses the activations that LoRA keeps for its backward pass.",
    "monteclora_config": "MonteCLoRA draws LoRA's factors at random.",
    "use_bdlora": "BD-LoRA makes LoRA's factors block-diagonal.",
    "lora_bias": "LoRA² changes weights only.",
    "target_parameters": "LoRA² adapts modules, not bare parameters.",
}


def pairs(rows: list[Row]) -> list[Row]:
    """Return each LoRA row of a list of PEFT's that LoRA² can have, and its LoRA² row after it."""
    chosen = [row for row in rows if LoraConfig in row and not _is_of_lora_alone(row)]
    return [each for row in chosen for each in (row, tuple(map(_as_lora2, row)))]


def pairs_of_configs(rows: list[Row]) -> list[Row]:
    """Return the same of rows that hold configs."""
    chosen = [row for row in rows if type(row[1]) is LoraConfig]
    return [each for row in chosen for each in (row, tuple(map(_as_lora2, row)))]


def name_of(lora_name: str) -> str:
    """Return the name of the LoRA² row that is made from this LoRA row."""
    return lora_name.replace("LoRA", "LoRA2")


def _is_of_lora_alone(row: Row) -> bool:
    fields = [part for part in row if isinstance(part, dict)]
    names = {name for part in fields for name in part}
    is_mica = any(part.get("init_lora_weights") == "mica" for part in fields)
    if is_mica or FIELDS_OF_LORA_ALONE.keys() & names:
        return True
    unknown = names - _SAME_FIELDS - _RENAMED_FIELDS.keys()
    assert not unknown, f"PEFT has rows of LoRA with the new fields {unknown}: say what they are"
    return False


def _as_lora2(part: Any) -> Any:
    """Return one part of a row: a name, the kind of tuner, a model, a class, fields or a config."""
    if part is LoraConfig:
        return Lora2Config
    if part == "lora":
        return "lora2"
    if isinstance(part, str):
        return name_of(part)
    if isinstance(part, dict):
        return {_RENAMED_FIELDS.get(name, name): value for name, value in part.items()}
    return Lora2Config(
        target_modules=part.target_modules, k=part.r, init_weights=part.init_lora_weights
    )
