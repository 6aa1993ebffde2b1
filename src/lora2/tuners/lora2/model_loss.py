"""The loss that a model returns among its outputs, and what it is a mean or a sum of."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from lora2.support.ignored_label import IGNORED


def has_loss(outputs: Any) -> bool:
    """Return whether the outputs of a model hold a loss."""
    if type(outputs) is tuple:
        # With `return_dict=False`, a loss is the first of the outputs.
        first = outputs[0] if outputs else None
        return isinstance(first, Tensor) and first.dim() == 0 and first.requires_grad
    if isinstance(outputs, MutableMapping):
        return outputs.get("loss") is not None
    return getattr(outputs, "loss", None) is not None


def add_to_loss(outputs: Any, penalty: Tensor) -> Any:
    """Return the outputs with the sum in the place of their loss."""

    def added(loss: Tensor) -> Tensor:
        return loss + penalty.to(loss.device, loss.dtype)

    if type(outputs) is tuple:
        return (added(outputs[0]), *outputs[1:])
    if isinstance(outputs, MutableMapping):
        outputs["loss"] = added(outputs["loss"])
    else:
        outputs.loss = added(outputs.loss)
    return outputs


def share_of_optimizer_batch(model: nn.Module, kwargs: dict[str, Any]) -> Tensor | float:
    """Return the part of the optimizer's batch that this micro-batch is, as its loss counts it.

    transformers' Trainer hands a causal LM the number of labels of the whole optimizer batch and
    sums the losses of its micro-batches. The penalty must enter that sum once, not once each. A
    classifier gets the number too but returns a plain mean, and the penalty stays in proportion.
    """
    whole = kwargs.get("num_items_in_batch")
    labels = kwargs.get("shift_labels", kwargs.get("labels"))
    if whole is None or labels is None or not _is_causal_lm(model):
        return 1.0
    if "shift_labels" not in kwargs:
        # The first token of a row is never predicted.
        labels = labels[..., 1:]
    return (labels != IGNORED).sum() / whole


def _is_causal_lm(model: nn.Module) -> bool:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss
