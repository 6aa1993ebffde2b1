"""Checks of what is given to an export besides its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.distributed.gathering import is_sharded
from lora2.tuners.base.offloading import has_offloaded


def check_tokenizer(tokenizer: Any) -> None:
    """Check that a tokenizer, or a processor, can be saved; None is none.

    Raises:
        UserError: it is something else, such as its name.
    """
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise UserError(
            f"tokenizer={tokenizer!r} is a {type(tokenizer).__name__} and cannot be saved; give "
            "what AutoTokenizer.from_pretrained returns."
        )


def check_batch(batch: Any) -> None:
    """Check that a batch is one tensor, or several by name; None is none.

    Raises:
        UserError: it is something else.
    """
    if batch is not None and not isinstance(batch, Tensor | Mapping):
        raise UserError(
            f"batch: a {type(batch).__name__} is no input of a model; give a tensor, or a "
            "dictionary of the model's inputs."
        )


def check_is_in_memory(model: nn.Module) -> None:
    """Check that this process has all weights of a model in memory.

    Raises:
        UserError: accelerate has offloaded some, or several processes hold a part of one each.
    """
    if has_offloaded(model):
        raise UserError(
            "model: some of its weights are offloaded, and an export is read back on weights in "
            "memory; save the adapter with save_pretrained, load it on a base model that was "
            "loaded without device_map, and export that."
        )
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise UserError(
            "model: some of its weights are split over several processes; call save_pretrained in "
            "all of them, load the adapter on a base model in one process, and export that."
        )
