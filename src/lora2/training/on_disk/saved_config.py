"""The configuration of the model that was saved next to an adapter."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.support.checked_files import check_fields, read_json
from lora2.support.error_text import in_one_sentence
from lora2.training.on_disk.run_files import DAMAGED
from lora2.training.quiet import quiet_loading


def read_saved_config(adapter: Path) -> PretrainedConfig:
    """Return the configuration in an adapter's folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = adapter / MODEL_CONFIG
    check_fields(read_json(file, DAMAGED), {"model_type": str}, file, DAMAGED)
    with in_one_sentence(f"{file} cannot be loaded", DAMAGED), quiet_loading():
        return AutoConfig.from_pretrained(adapter)
