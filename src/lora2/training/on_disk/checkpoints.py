"""Finds the newest checkpoint that was written to its end.

The trainer writes a checkpoint file by file into its final folder, so a process that is killed in
between leaves a part. The checkpoint before it is deleted only when the new one is complete.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.utils import SAFE_WEIGHTS_NAME

from lora2.errors import UserError
from lora2.support.checked_files import check_fields, read_json
from lora2.tuners.base.loading import saved_tensors

_NAME = re.compile(r"checkpoint-(\d+)")
# The first is an adapter's; the other is that of a model that is trained whole.
_WEIGHTS = (SAFETENSORS_WEIGHTS_NAME, SAFE_WEIGHTS_NAME)
_STATE = "trainer_state.json"
_OPTIMIZER = "optimizer.pt"
_SCHEDULER = "scheduler.pt"
# FSDP writes whole files, or folders with a part of each process and a last file, `.metadata`.
_FSDP_OPTIMIZER = "optimizer.bin"
_FSDP_OPTIMIZER_PARTS = "optimizer_0"
_FSDP_WEIGHTS_PARTS = "pytorch_model_fsdp_0"
_PARTS_END = ".metadata"
# DeepSpeed writes a folder with parts of each process, and last the file that names it.
_DEEPSPEED_LATEST = "latest"
# The trainer computes with these fields of its state.
_COUNTS = {"epoch": float | None, "max_steps": int, "train_batch_size": int | None}
_OF_STATE = {each.name for each in dataclasses.fields(TrainerState)}


def checkpoints_by_age(folder: Path) -> list[Path]:
    """Return all checkpoint folders, the newest first, complete or not."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda pair: -int(pair[0][1]))]


def newest_complete(
    folder: Path, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint, and what is wrong with each newer one.

    shapes: of the tensors that its weights must be, by name; None if that is not known.
    """
    faults: list[str] = []
    for path in checkpoints_by_age(folder):
        fault = fault_of(path)
        if fault is not None:
            faults.append(f"{path.name} was cut short ({fault})")
            continue
        unknown = _unknown_key(path)
        misfit = None if shapes is None else _misfit(path, shapes)
        if unknown is not None:
            faults.append(
                f"{path.name} is of another version of transformers ({_STATE} holds {unknown!r})"
            )
        elif misfit is not None:
            faults.append(f"{path.name} is of another adapter or model ({misfit})")
        else:
            return path, faults
    return None, faults


def ends_an_epoch(checkpoint: Path) -> bool:
    """Whether a complete checkpoint is of the last step of an epoch."""
    epoch = read_json(checkpoint / _STATE, "", nan_as_null=True).get("epoch")
    return isinstance(epoch, int | float) and float(epoch).is_integer()


def _misfit(checkpoint: Path, shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return how the weights of a complete checkpoint differ from what they must be."""
    path = _weights(checkpoint)
    # Parts of several processes are left to their engine.
    if not path.is_file():
        return None
    found = saved_tensors(path)
    for name, shape in shapes.items():
        if name not in found:
            return f"{path.name} lacks {name}"
        if [*shape] != found[name]:
            return f"{path.name}: {name} is {found[name]}, and must be {[*shape]}"
    extra = next((name for name in found if name not in shapes), None)
    return None if extra is None else f"{path.name} holds {extra}"


def fault_of(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if it is complete."""
    # In the order of writing, so that the first file that suffered is named.
    for fault in (
        _fault_of_weights_in(checkpoint),
        *(_fault_of_archive(path) for path in _optimizer_files(checkpoint)),
        *(_fault_of_archive(path) for path in _random_states(checkpoint)),
        _fault_of_state(checkpoint),
    ):
        if fault is not None:
            return fault
    return None


def _optimizer_files(checkpoint: Path) -> list[Path]:
    """Return the files that hold optimizer and scheduler, in the form of their engine.

    torch.save writes zip archives, whose table of contents is at the end.
    """
    scheduler = checkpoint / _SCHEDULER
    latest = checkpoint / _DEEPSPEED_LATEST
    if latest.is_file():
        named = latest.read_text(encoding="utf-8", errors="replace").strip()
        parts = sorted((checkpoint / named).glob("*.pt"))
        # A scheduler of DeepSpeed's own is among the parts.
        return [*(parts or [latest.with_name("global_step")]), *_if_there(scheduler)]
    if (checkpoint / _FSDP_OPTIMIZER_PARTS).is_dir():
        return [*_if_missing(checkpoint / _FSDP_OPTIMIZER_PARTS / _PARTS_END), scheduler]
    whole = _if_there(checkpoint / _FSDP_OPTIMIZER) or [checkpoint / _OPTIMIZER]
    return [*whole, scheduler]


def _if_there(path: Path) -> list[Path]:
    return [path] if path.is_file() else []


def _if_missing(path: Path) -> list[Path]:
    return [] if path.is_file() else [path]


def _random_states(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("rng_state*.pth")) or [checkpoint / "rng_state.pth"]


def _weights(checkpoint: Path) -> Path:
    found = [checkpoint / name for name in _WEIGHTS if (checkpoint / name).is_file()]
    return found[0] if found else checkpoint / _WEIGHTS[0]


def _fault_of_weights_in(checkpoint: Path) -> str | None:
    parts = checkpoint / _FSDP_WEIGHTS_PARTS
    if not parts.is_dir():
        return _fault_of_weights(_weights(checkpoint))
    return None if (parts / _PARTS_END).is_file() else f"{parts.name}/{_PARTS_END} is missing"


def _fault_of_weights(path: Path) -> str | None:
    try:
        # Opening checks that the file is as long as its header says.
        with safe_open(path, framework="pt"):
            return None
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (SafetensorError, OSError) as error:
        return f"{path.name} is damaged: {error}"


def _fault_of_archive(path: Path) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    return None if zipfile.is_zipfile(path) else f"{path.name} is damaged"


def _fault_of_state(checkpoint: Path) -> str | None:
    path = checkpoint / _STATE
    if not path.is_file():
        return f"{_STATE} is missing"
    try:
        # The trainer writes NaN into it, of a gradient's norm.
        state = read_json(path, "", nan_as_null=True)
        check_fields(state, {"global_step": int, "log_history": list[dict]}, path, "")
        check_fields(state, _COUNTS, path, "", optional=True)
        for record in state["log_history"]:
            numbers = [name for name in record if name == "epoch" or name.startswith("eval_")]
            check_fields(record, {"step": int} | dict.fromkeys(numbers, float | None), path, "")
    except UserError:
        return f"{_STATE} is damaged"
    step = state["global_step"]
    return None if checkpoint.name == f"checkpoint-{step}" else f"{_STATE} is of step {step}"


def _unknown_key(checkpoint: Path) -> str | None:
    """Return a key of a complete checkpoint's state that the trainer would not take."""
    state = read_json(checkpoint / _STATE, "", nan_as_null=True)
    return next((name for name in state if name not in _OF_STATE), None)
