"""A digest of the adapter that a run starts from, by which it notices that another is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS

from lora2.errors import UserError
from lora2.training.options.arguments import RunSettings
from lora2.tuners.base.loading import find_adapter

START = "start_from"
"""The key of task.json that holds the digest; a run without such an adapter has no such key."""


def start_digest(settings: RunSettings) -> dict[str, str]:
    """Return the digest of the adapter that the run starts from, by its key; empty without one.

    Raises:
        UserError: no adapter is there.
    """
    path = settings.adapter[START]
    if path is None:
        return {}
    folder = find_adapter(Path(path), START)
    found = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS):
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return {START: found.hexdigest()[:16]}


def check_same_start(stored: Mapping[str, Any], settings: RunSettings, advice: str) -> None:
    """Check that the adapter that a run starts from is the one that it was started with.

    stored: what task.json holds; a file of an older version has no digest, and is believed.

    Raises:
        UserError: it is another, or none is there; `advice` says what else to do.
    """
    if START in stored and start_digest(settings)[START] != stored[START]:
        raise UserError(
            f"{START}: the adapter in {settings.adapter[START]} is not the one that the run was "
            f"started with; bring that one back, or {advice}."
        )
