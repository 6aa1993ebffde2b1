"""The loss that a model returns among its outputs, and what it is a mean or a sum of."""

from __future__ import annotations

import inspect
import re
from collections.abc import MutableMapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import (
    LOSS_MAPPING,
    ForCausalLMLoss,
    ForMaskedLMLoss,
    ForSequenceClassificationLoss,
)

from lora2.support.ignored_label import IGNORED

# The loss functions that divide a sum by the number of labels, if they are handed it.
_DIVIDED = (ForCausalLMLoss, ForMaskedLMLoss, ForSequenceClassificationLoss)
# Liger's forward passes call the second one.
_CALL_OF_LOSS = re.compile(r"(?:self\.loss_function|ForCausalLMLoss)\(((?:[^()]|\([^()]*\))*)\)")


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

    transformers' Trainer hands a model the number of labels of the whole optimizer batch and sums
    the losses of its micro-batches. Where a loss is a sum divided by that number, the penalty must
    enter once, not once each. Other models return a plain mean, although they get the number too,
    and the penalty stays in proportion.
    """
    whole = kwargs.get("num_items_in_batch")
    labels = kwargs.get("shift_labels", kwargs.get("labels"))
    if whole is None or labels is None or not _hands_number_on(type(model)):
        return 1.0
    loss: Any = getattr(model, "loss_function", None)
    if loss not in _DIVIDED or (loss is ForSequenceClassificationLoss and not _has_classes(model)):
        return 1.0
    if "shift_labels" not in kwargs and _leaves_first_out(model):
        labels = labels[..., 1:]
    return (labels != IGNORED).sum() / whole


# A compiler must not look into the source, and would look into a cached function.
@torch.compiler.assume_constant_result
def _hands_number_on(model_type: Any) -> bool:
    return _hands_keywords_to_loss(model_type)


@cache
def _hands_keywords_to_loss(model_type: Any) -> bool:
    """Whether the forward pass of a class hands its own keyword arguments to its loss function.

    transformers has no property that says so: `BartForCausalLM` takes such arguments, and computes
    a mean all the same.
    """
    try:
        source = inspect.getsource(inspect.unwrap(model_type.forward))
    except (OSError, TypeError):
        return True
    return any("**" in arguments for arguments in _CALL_OF_LOSS.findall(source))


def _leaves_first_out(model: nn.Module) -> bool:
    """Whether the Trainer leaves the first label of each row out of its number.

    It does not where it does not know the loss, as of a `GPT2LMHeadModel`. The shares of all
    micro-batches must add up to one, so they are counted as it counts.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    return LOSS_MAPPING.get(getattr(model, "loss_type", None)) is ForCausalLMLoss


def _has_classes(model: nn.Module) -> bool:
    # The losses of numbers, and of several labels, are means.
    config: Any = getattr(model, "config", None)
    return getattr(config, "problem_type", None) == "single_label_classification"
