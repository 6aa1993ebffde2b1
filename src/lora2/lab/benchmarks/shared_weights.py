"""Copies of a model that share its frozen weights, so that all methods fit into memory at once."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel


def copy_sharing_frozen_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy with its own trainable parameters, and the very same frozen ones."""
    # What the memo holds already, deepcopy takes as it is.
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, memo=frozen)
