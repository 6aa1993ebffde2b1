"""Tokenizers that are a SentencePiece file alone, which transformers converts at loading."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora2.errors import UserError
from lora2.training.base_models.loading_errors import folder_of
from lora2.training.base_models.sources import ModelSource

# Import name → name on PyPI. transformers reads the file with the first, through the second.
_PACKAGES = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
_ENDINGS = (".model", ".spm")
# A serialized SentencePiece model starts with this; other tokenizers' files end in .model, too.
_FIRST_BYTE = b"\n"


@contextmanager
def naming_packages(name: str, source: ModelSource) -> Iterator[None]:
    """Name the packages that are missing when the tokenizer of a model cannot be loaded.

    Raises:
        UserError: the tokenizer is a SentencePiece file alone, and one of the packages is missing.
    """
    try:
        yield
    except Exception as error:
        # transformers would ask for tiktoken, which does not read such a file.
        folder = folder_of(source)
        file = None if folder is None else sentencepiece_file(folder)
        missing = [package for module, package in _PACKAGES.items() if not _is_installed(module)]
        if file is None or not missing:
            raise
        raise UserError(
            f"model: the tokenizer of {name} is the SentencePiece file {file.name}, which needs "
            "the Python packages 'sentencepiece' and 'protobuf' (not installed: "
            f"{', '.join(missing)}): run `pip install 'lora2[train]'`."
        ) from error


def sentencepiece_file(folder: Path) -> Path | None:
    """Return the SentencePiece file of a tokenizer that has no tokenizer.json."""
    if (folder / "tokenizer.json").is_file():
        return None
    for path in sorted(folder.iterdir()):
        if path.suffix in _ENDINGS and path.is_file():
            with path.open("rb") as file:
                if file.read(1) == _FIRST_BYTE:
                    return path
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent
        return False
