"""Loads a saved adapter so that every tensor in its file finds its place, or none does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from lora2.errors import UserError

WEIGHTS = "adapter_model.safetensors"


def load_adapter(model: Any, path: Path, *, is_trainable: bool = False) -> PeftModel:
    """Put a saved adapter of any PEFT method on its base model.

    Raises:
        UserError: no adapter, a damaged one, or one of another base model.
        SafetensorError: its file of weights is damaged.
    """
    try:
        # PEFT warns of modules without weights, which here is an error, found below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(model, str(path), is_trainable=is_trainable)
    except (RuntimeError, ValueError, AttributeError, KeyError) as error:
        # torch names every tensor of another size, PEFT the modules it did not find.
        raise _wrong(path) from error
    check_loaded(adapted, path)
    return adapted


def check_loaded(model: PeftModel, path: Path, adapter_name: str = "default") -> None:
    """Check that a loaded adapter has the tensors of its file, all of them and no others.

    Raises:
        UserError: it is of another base model.
    """
    with safe_open(path / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    # PEFT warns of matrices of which AdaLoRA kept nothing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = get_peft_model_state_dict(
            model, adapter_name=adapter_name, save_embedding_layers=False
        )
    # PEFT saves the weight of an adapted or resized embedding with the adapter.
    of_base = {name for name in saved - set(loaded) if name in model.state_dict()}
    if set(loaded) != saved - of_base:
        raise _wrong(path)


def find_adapter(path: Path, option: str) -> Path:
    """Return the folder of an adapter: `path` itself, or within that of a finished run.

    Raises:
        UserError: there is none; `option` is what gave the path.
    """
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    for name in ("adapter_config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{option}: {path} holds no {name}; give the folder of an adapter or of a finished "
                "run."
            )
    return folder


def _wrong(path: Path) -> UserError:
    return UserError(
        f"model: the adapter in {path} is of another base model; give the model that it was "
        "trained on."
    )
