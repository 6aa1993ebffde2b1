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

from lora2.data import TaskData
from lora2.training.methods.wrapping import HEADS
from lora2.training.models import BaseModel
from lora2.tuners.base.distributed.zero import writable


def start_head_at_label_mean(base: BaseModel, task: TaskData) -> None:
    """Set the bias of a new output layer to the log shares of the classes, or the mean label.

    A head that came with the checkpoint, or one without bias, is left as it is.
    """
    labels = torch.tensor(list(task.train["label"]))
    if task.kind != "regression":
        start_head_at_shares(base, labels)
        return
    output = _new_output_layer(base)
    if output is not None and output.bias is not None:
        with torch.no_grad(), writable([output.bias]):
            output.bias.fill_(float(labels.mean()))


def start_head_at_shares(base: BaseModel, labels: Tensor) -> None:
    """Set the bias of a new output layer to the log shares of the classes; labels: [any].

    A head that came with the checkpoint, or one without bias, is left as it is.
    """
    output = _new_output_layer(base)
    if output is None or output.bias is None:
        return
    counts = torch.bincount(labels, minlength=output.out_features)
    with torch.no_grad(), writable([output.bias]):
        # One more of each, so that a class that does not occur is only unlikely.
        output.bias.copy_(((counts + 1) / (len(labels) + len(counts))).log())


def _new_output_layer(base: BaseModel) -> nn.Linear | None:
    new = [
        base.model.get_submodule(name)
        for name in base.new_modules
        if set(name.split(".")) & set(HEADS)
    ]
    linear = [module for module in new if isinstance(module, nn.Linear)]
    outputs = [module for module in linear if module.out_features == base.model.config.num_labels]
    return outputs[-1] if outputs else None
