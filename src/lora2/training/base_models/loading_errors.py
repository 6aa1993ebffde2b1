"""Errors of transformers while it loads a model or tokenizer, in one sentence for the user."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from torch import OutOfMemoryError
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.errors import UserError
from lora2.support.error_text import first_line_of
from lora2.training.base_models.sources import ModelSource

# Files of a model folder that hold one JSON object each.
_OBJECTS = (
    MODEL_CONFIG,
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_WEIGHTS = ("*.safetensors", "*.bin")
# By the end of a class's name in transformers: what its head labels, and what its model reads.
_CLASSIFIED = {
    "TokenClassification": ("words", "texts"),
    "ImageClassification": ("images", "images"),
}
_LFS = b"version https://git-lfs"
_ANOTHER = "give the folder of a transformers model, or a hub name that can be reached."
_AGAIN = "copy or download the model again."


@contextmanager
def as_user_error(name: str, source: ModelSource) -> Iterator[None]:
    """Turn every error of transformers into a sentence about the model called `name`.

    Raises:
        UserError: whatever transformers raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"model: {name} {_reason(error, name, source)}") from error


def folder_of(source: ModelSource) -> Path | None:
    """Return the folder of a model, or the cache of a hub name; None if there is neither."""
    if Path(source.location).is_dir():
        return Path(source.location)
    try:
        found = try_to_load_from_cache(source.location, MODEL_CONFIG)
    except ValueError:  # no name that a hub could have
        return None
    return Path(found).parent if isinstance(found, str) else None


def _reason(error: Exception, name: str, source: ModelSource) -> str:
    text = first_line_of(error)
    if isinstance(error, MemoryError | OutOfMemoryError):
        return (
            "does not fit into memory: use --dtype bfloat16, a smaller model, or a machine with "
            "more memory."
        )
    if isinstance(error, PermissionError):
        return f"cannot be read ({text}): change its permissions, or give another folder."
    if source.gguf_file is not None:
        return (
            f"could not be loaded ({text}): the GGUF file is damaged, cut short, or of an "
            "architecture that transformers does not know; download it again, or give the folder "
            "of a transformers model."
        )
    folder = folder_of(source)
    if folder is None:
        return _reason_of_hub_name(name, text, str(error))
    return _reason_of_files(folder, error, text)


def _reason_of_hub_name(name: str, text: str, whole: str) -> str:
    if "gated repo" in whole:
        return (
            f"is a gated model of the hub: accept its terms at https://huggingface.co/{name} and "
            "log in with `hf auth login`, or give a folder."
        )
    if "connect" in whole or "offline" in whole.lower():
        return (
            "is neither a folder here nor a model in the hub's cache, and the hub cannot be "
            "reached: check the name and the connection (HF_HUB_OFFLINE must not be 1), or give "
            "the folder of a transformers model."
        )
    return f"could not be loaded ({text}); {_ANOTHER}"


def _reason_of_files(folder: Path, error: Exception, text: str) -> str:
    damaged = _damaged_object(folder)
    if damaged is not None:
        return f"could not be loaded: {damaged} holds no valid JSON object; {_AGAIN}"
    pointer = _git_lfs_pointer(folder)
    if pointer is not None:
        return (
            f"could not be loaded: {pointer} is a pointer of Git LFS, and not the weights; run "
            "`git lfs pull` in that folder."
        )
    if "trust_remote_code" in str(error):
        return (
            "has code of its own, which is never run here: give a model whose architecture is in "
            "transformers."
        )
    if isinstance(error, ImportError) or "pip install" in text:
        return f"needs a Python package that is not installed ({text})."
    # torch.load raises these for a file that is cut short, damaged, or holds more than tensors.
    if isinstance(error, pickle.UnpicklingError | EOFError) or "PytorchStreamReader" in text:
        return (
            "could not be loaded: pytorch_model.bin is damaged or cut short, or holds something "
            f"else than tensors; {_AGAIN}"
        )
    if isinstance(error, SafetensorError):
        return (
            f"could not be loaded: its safetensors file is damaged or cut short ({text}); {_AGAIN}"
        )
    if "Unrecognized configuration class" in text:
        return _no_such_head(text)
    if "does not recognize this architecture" in text:
        return (
            "could not be loaded: this version of transformers does not know the model_type in "
            "its config.json; install a newer transformers, or give another model."
        )
    if "backend tokenizer" in text:
        return "has no tokenizer that can be loaded; add its tokenizer.json to the folder."
    if "no file named" in text:
        return (
            "holds no weights; add its model.safetensors or pytorch_model.bin (weights of "
            "TensorFlow or Flax are not read), or give another model."
        )
    if "model_type" in text:
        return "could not be loaded: its config.json has no model_type; " + _ANOTHER
    return f"could not be loaded ({text}); {_ANOTHER}"


def _no_such_head(text: str) -> str:
    if text.endswith("AutoModelForCausalLM"):
        return (
            "is of an architecture that cannot write texts; give a causal language model, or leave "
            "--objective sft out."
        )
    auto_model = text.rpartition("AutoModelFor")[2]
    labelled, read = _CLASSIFIED.get(auto_model, ("texts", "texts"))
    return (
        f"is of an architecture that transformers has no classifier of {labelled} for; give a "
        f"model that reads {read}."
    )


def _damaged_object(folder: Path) -> str | None:
    for name in _OBJECTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return name
        if not isinstance(content, dict):
            return name
    return None


def _git_lfs_pointer(folder: Path) -> str | None:
    for pattern in _WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                with path.open("rb") as file:
                    if file.read(len(_LFS)) == _LFS:
                        return path.name
    return None
