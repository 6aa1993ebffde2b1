"""Loads a saved adapter so that every tensor in its file finds its place, or none does."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, get_type_hints

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors import SafetensorError, safe_open

from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json
from lora2.support.error_text import in_one_sentence, reason_of
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.finite_checks import check_factors, check_weights
from lora2.tuners.base.loading_errors import DAMAGED, explained_errors, tensors_differ
from lora2.tuners.base.token_rows.checks import check_rows

FIELDS_OF_PEFT = {
    "r": int,
    "lora_alpha": float,
    "lora_dropout": float,
    "alpha_pattern": dict,
    "rank_pattern": dict | None,
    "target_modules": list[str] | str | None,
    "exclude_modules": list[str] | str | None,
    "modules_to_save": list[str] | None,
    "trainable_token_indices": list[int] | dict[str, list[int]] | None,
    "layers_to_transform": list[int] | int | None,
}
"""Types of fields that PEFT's methods have in common; it does not check them."""


def load_adapter(model: Any, path: Path, *, is_trainable: bool = False) -> PeftModel:
    """Put a saved adapter of any PEFT method on its base model.

    Raises:
        UserError: no adapter, a damaged one, or one of another base model; the sentence says which.
    """
    config = read_adapter_config(path)
    check_rows(model, config)
    # A damaged file is refused before PEFT reads it.
    saved_tensors(path / WEIGHTS)
    with explained_errors(path, model):
        adapted = PeftModel.from_pretrained(
            model, str(path), config=config, is_trainable=is_trainable
        )
    check_loaded(adapted, path)
    return adapted


def add_adapter(model: PeftModel, path: Path, adapter_name: str) -> None:
    """Load a further adapter into a model that has one.

    Raises:
        UserError: as for `load_adapter`.
    """
    base_model = model.get_base_model()
    check_rows(base_model, read_adapter_config(path))
    saved_tensors(path / WEIGHTS)
    with explained_errors(path, base_model):
        model.load_adapter(str(path), adapter_name)
    check_loaded(model, path, adapter_name)


def read_adapter_config(path: Path) -> PeftConfig:
    """Return the config of the adapter in a folder.

    Raises:
        UserError: the file is missing or damaged, or a value in it is not possible.
    """
    file = path / CONFIG_NAME
    content = read_json(file, DAMAGED)
    check_fields(content, {"peft_type": str}, file, DAMAGED)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(content["peft_type"])
    if kind is None:
        raise UserError(
            f"{file}: peft_type={content['peft_type']!r} is not a method that this version of PEFT "
            f"knows; {DAMAGED}."
        )
    types = _nullable(FIELDS_OF_PEFT, kind)
    if issubclass(kind, TargetConfig):
        types = get_type_hints(kind)
        check_fields(content, dict.fromkeys(kind.needed_fields, object), file, DAMAGED)
    check_fields(content, types, file, DAMAGED, optional=True)
    try:
        with in_one_sentence(f"{file} cannot be loaded", DAMAGED), warnings.catch_warnings():
            # PEFT names the fields of other versions, which it leaves out.
            warnings.simplefilter("ignore")
            return PeftConfig.from_pretrained(str(path))
    except UserError as error:
        if error.__cause__ is not None:
            raise
        raise UserError(f"{file}: {error}") from error


def _nullable(types: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return types of fields that may be null, too, where that is the default of a config."""
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    return {
        name: hint | None if name in defaults and defaults[name] is None else hint
        for name, hint in types.items()
    }


def saved_tensors(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a file of weights, by name.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        fault = "is a folder, and must be a file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {fault}; {DAMAGED}.")
    try:
        # Opening checks that the file is as long as its header says.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}); {DAMAGED}.") from error


def check_loaded(model: PeftModel, path: Path, adapter_name: str = "default") -> None:
    """Check that a loaded adapter has the tensors of its file, all of them and no others.

    Raises:
        UserError: a tensor is missing, has no place, or is of another base model.
        NumericalError: it holds NaN or infinity.
    """
    saved = set(saved_tensors(path / WEIGHTS))
    # PEFT warns of matrices of which AdaLoRA kept nothing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = get_peft_model_state_dict(
            model, adapter_name=adapter_name, save_embedding_layers=False
        )
    # PEFT saves the weight of an adapted or resized embedding with the adapter.
    of_base = {name for name in saved - set(loaded) if name in model.state_dict()}
    missing, extra = sorted(set(loaded) - saved), sorted(saved - of_base - set(loaded))
    if missing or extra:
        raise tensors_differ(model, path, missing, extra)
    where = f"the adapter in {path}"
    check_weights(loaded, where, "copy its file again, or train it again.")
    check_factors(model, adapter_name, where)


def find_adapter(path: Path, option: str) -> Path:
    """Return the folder of an adapter: `path` itself if it is one, or within a finished run's.

    Raises:
        UserError: there is none; `option` is what gave the path.
    """
    is_run = (path / "adapter").is_dir() and not (path / CONFIG_NAME).is_file()
    folder = path / "adapter" if is_run else path
    for name in (CONFIG_NAME, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{option}: {path} holds no {name}; give the folder of an adapter or of a finished "
                "run."
            )
    return folder
