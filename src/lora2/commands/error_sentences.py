"""Errors of user and machine, each in one sentence that says what to do."""

from __future__ import annotations

import errno

from lora2.errors import UserError
from lora2.support.shown_values import shown_path

_LESS_MEMORY = {
    "train": "lower --per_device_train_batch_size or --max_length",
    "evaluate": "lower --batch_size",
    "predict": "lower --batch_size",
    "generate": "lower --batch_size or --max_new_tokens",
}

# What torch.save says of a file that ends early: in the middle of a tensor, at the end of one, and
# where its own stream could not be closed.
_WORDS_OF_TORCH_SAVE = ("PytorchStreamWriter failed", "unexpected pos", "iostream error")


def as_sentence(error: Exception, command: str = "") -> str | None:
    """Return an error of user or machine in one sentence, None if it is a fault of ours.

    command: the subcommand, which decides what the user can do.
    """
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    from lora2.errors import NumericalError

    text = " ".join(str(error).split())
    if isinstance(error, UserError | NumericalError):
        return text
    again = "run the same again"
    if command == "train":
        again = "run the same with --resume, or without it if the run's folder has no config.yaml"
    if _is_too_large(error, text):
        return (
            f"A file would be larger than this process may write ({text}): raise the limit with "
            f"`ulimit -f unlimited`, then {again}."
        )
    if _is_disk_full(error, text):
        return f"The disk is full ({text}): free some space, then {again}."
    # torch.save does not say which of the two it is.
    if any(words in text for words in _WORDS_OF_TORCH_SAVE):
        return (
            f"A file could not be written to its end ({text}), because the disk is full or files "
            f"may not be larger (`ulimit -f`): free some space or raise the limit, then {again}."
        )
    # DistributedDataParallel waits in each process for the gradients of all parameters.
    if "Expected to have finished reduction" in text:
        return (
            "Some of the trained parameters had no gradient in a step, for which all processes "
            "wait: give --ddp_find_unused_parameters true."
        )
    if isinstance(error, SafetensorError):
        return f"A safetensors file is damaged ({text}): restore it from a copy."
    # On a CPU torch raises an error of no type of its own.
    if isinstance(error, MemoryError | OutOfMemoryError) or "DefaultCPUAllocator" in text:
        advice = _LESS_MEMORY.get(command, "close other programs, or take a larger machine")
        return f"Not enough memory: {advice}."
    if isinstance(error, OSError):
        # If a file was to be renamed, its second name is the one that a user knows.
        name = error.filename2 or error.filename
        place = f"{shown_path(name)}: " if name else ""
        return f"{place}{error.strerror or text}."
    return None


def _is_too_large(error: Exception, text: str) -> bool:
    # safetensors does not raise an OSError, here and below.
    return getattr(error, "errno", None) == errno.EFBIG or "File too large" in text


def _is_disk_full(error: Exception, text: str) -> bool:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in text or "Disk quota exceeded" in text
