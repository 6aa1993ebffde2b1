"""How large an adapter is, in training and as a file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn

from lora2.support.files import new_folder

# PEFT's comparison writes it where an adapter cannot be saved.
_UNKNOWN = 99999999


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are."""
    if isinstance(model, PeftModel):
        return model.get_nb_trainable_parameters()
    return model.num_parameters(), model.num_parameters()


def saved_size(model: Any, keep: Path | None) -> int:
    """Return the bytes of the saved adapter, or of all weights where there is none.

    keep: a new folder in which the adapter, or the model, stays.
    """
    try:
        if keep is not None:
            with new_folder(keep) as folder:
                return _saved_into(folder, model)
        if not isinstance(model, PeftModel):
            return _weights_size(model)
        with tempfile.TemporaryDirectory() as temporary:
            return _saved_into(Path(temporary), model)
    # The training counts, even where PEFT or the disk refuses this.
    except Exception as error:
        print(f"The adapter could not be saved: {error}", file=sys.stderr)
        return _UNKNOWN


def _saved_into(folder: Path, model: Any) -> int:
    model.save_pretrained(folder)
    if not isinstance(model, PeftModel):
        return _weights_size(model)
    return (folder / SAFETENSORS_WEIGHTS_NAME).stat().st_size


def _weights_size(model: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in model.parameters())
