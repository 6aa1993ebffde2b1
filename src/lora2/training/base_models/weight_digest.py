"""A digest of a base model's weights, by which a run notices that others are in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

BASE = "base_weights"
"""The key of task.json that holds the digest; a run that could not make one has no such key."""
_DIGITS = 16
# A training changes some of the first numbers of a weight, and rows that are added do not.
_FIRST = 256


def weight_digest(model: nn.Module, new_modules: Collection[str]) -> str | None:
    """Return a digest of the first numbers of each weight that was loaded.

    It is the same wherever the files are, and in which format. new_modules: names of those whose
    weights were drawn. None if this process has not all weights, or has quantized ones.
    """
    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] in new_modules:
            continue
        is_whole = type(parameter.data) is torch.Tensor and parameter.numel() > 0
        if not is_whole or parameter.is_meta or not parameter.is_floating_point():
            return None
        found.update(name.encode())
        first = parameter.detach().flatten()[:_FIRST].to("cpu", torch.float64)
        found.update(first.numpy().tobytes())
    return found.hexdigest()[:_DIGITS]


def is_of_other_weights(digest: str | None, stored: Mapping[str, Any]) -> bool:
    """Whether a base model is not the one of a run; stored: what the run's task.json holds."""
    return digest is not None and stored.get(BASE, digest) != digest
