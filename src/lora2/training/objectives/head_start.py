"""A new head starts where it says what the labels say on average.

The first thing that any training learns is the share of each class, or the mean of a scale. From a
bias of zero the adapter learns it with the head, and faster: every text is pushed in one direction
until all look alike, and what separated them has to be learned again. On STS-B (mean 2.7 of 5) and
CoLA (70 % acceptable) that took an encoder of this size a thousand steps
(docs/notebook/experiments.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora2.training.base_models.models import BaseModel
from lora2.training.methods.wrapping import is_of_head
from lora2.tuners.base.distributed.zero import writable


def start_head_at_label_mean(base: BaseModel, labels: Tensor, is_scale: bool = False) -> None:
    """Set the bias of a new output layer to the log shares of the classes, or the mean label.

    A head that came with the checkpoint, or one without bias, is left as it is.

    labels: [any], numbers of classes, or values if `is_scale`.
    """
    output = _new_output_layer(base)
    if output is None or output.bias is None:
        return
    with torch.no_grad(), writable([output.bias]):
        output.bias.copy_(labels.mean() if is_scale else _log_shares(labels, output.out_features))


def _log_shares(labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    # Each class is counted once more, so that one without rows is unlikely and not impossible.
    return ((counts + 1) / (len(labels) + len(counts))).log()


def _new_output_layer(base: BaseModel) -> nn.Linear | None:
    new = [base.model.get_submodule(name) for name in base.new_modules if is_of_head(name)]
    linear = [module for module in new if isinstance(module, nn.Linear)]
    outputs = [module for module in linear if module.out_features == base.model.config.num_labels]
    return outputs[-1] if outputs else None
