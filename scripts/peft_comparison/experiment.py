"""An experiment's folder: adapter_config.json, and training_params.json where it is no default."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig
from peft.utils import CONFIG_NAME

from lora2 import Lora2Config
from lora2.errors import UserError
from lora2.support.checked_files import read_json
from lora2.support.error_text import clause_of
from lora2.training.methods.peft_options import STARTS_OF_DATA
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.config.unknown_fields import check_known_fields
from peft_comparison.train_config import FILE, TrainConfig, read_train_config


@dataclass(frozen=True)
class Experiment:
    """What is trained, and how.

    Attributes:
        name: method and variant, the last two folders of its path.
        train: training_params.json over PEFT's defaults.
        adapter: adapter_config.json; None trains all weights.
    """

    name: str
    train: TrainConfig
    adapter: PeftConfig | None


def read_experiment(folder: Path, model: str | None = None) -> Experiment:
    """Read an experiment's folder, .../METHOD/VARIANT.

    model: in place of `model_id`.

    Raises:
        UserError: a folder or file that cannot be used.
    """
    if not folder.is_dir():
        raise UserError(
            f"experiment: {folder} is no folder; give one with {CONFIG_NAME}, {FILE} or both."
        )
    files = folder / CONFIG_NAME, folder / FILE
    if not any(path.exists() for path in files):
        raise UserError(
            f"experiment: {folder} has neither {CONFIG_NAME} nor {FILE}; write the first to train "
            "an adapter, or the second alone to train all weights."
        )
    parts = folder.resolve().parts
    if len(parts) < 3:
        raise UserError(
            f"experiment: {folder} has no two names to call the result by; give a folder "
            "METHOD/VARIANT."
        )
    train = read_train_config(files[1])
    if model is not None:
        train = dataclasses.replace(train, model_id=model)
    adapter = _read_adapter(files[0], train.max_steps) if files[0].exists() else None
    if train.init_kv_cache_prefix is not None and _type_of(adapter) != "PREFIX_TUNING":
        raise UserError(
            f"{files[1]}: init_kv_cache_prefix is for PREFIX_TUNING, and the adapter is "
            f"{_type_of(adapter)}; remove it."
        )
    return Experiment("/".join(parts[-2:]), train, adapter)


def _read_adapter(path: Path, max_steps: int) -> PeftConfig:
    given = read_json(path, "write a config of PEFT there")
    if not isinstance(given.get("peft_type"), str):
        raise UserError(f"{path} has no peft_type; write the name of a method, such as LORA.")
    try:
        _check_fields(given, path)
        with warnings.catch_warnings():
            # A later PEFT's config may have more fields, which are empty.
            warnings.filterwarnings("ignore", "Unexpected keyword arguments")
            config: Any = PeftConfig.from_pretrained(str(path.parent))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: PEFT does not take it ({clause_of(error)}); correct it."
        ) from error
    if config.inference_mode:
        raise UserError(f"{path}: inference_mode is true, which trains nothing; write false.")
    return _with_total_step(config, path, max_steps)


def _check_fields(given: Mapping[str, Any], path: Path) -> None:
    """Check that a method has all fields that are not empty; PEFT would leave the others out."""
    start = given.get("init_lora_weights")
    if start in STARTS_OF_DATA:
        raise UserError(
            f"init_lora_weights is {start!r}, which is computed from data by a call of PEFT that "
            "is not made here, so that the result would be that of the default start; remove it."
        )
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING.get(given["peft_type"], PeftConfig)
    known = [each.name for each in dataclasses.fields(kind)]
    wrong = {name: value for name, value in given.items() if name not in known and value}
    if issubclass(kind, TargetConfig):
        check_known_fields(kind, wrong, known, kind.fields_of_others)
    elif wrong and kind is not PeftConfig:
        raise UserError(
            f"{', '.join(wrong)} is no field of {kind.__name__} in PEFT {peft.__version__}; remove "
            "it, or install a version that has it."
        )


def _with_total_step(config: Any, path: Path, max_steps: int) -> PeftConfig:
    """Return a config whose pruning, if it has one, ends with the training."""
    if isinstance(config, Lora2Config) and config.prunes and config.total_step is None:
        config.total_step = max_steps
    total = getattr(config, "total_step", None)
    if total not in (None, max_steps):
        raise UserError(
            f"{path}: total_step is {total} and max_steps {max_steps}, so that the pruning would "
            "not end with the training; write the same number in both."
        )
    return config


def _type_of(adapter: Any) -> str:
    return "none" if adapter is None else str(adapter.peft_type.value)
