"""Metrics of tags, from seqeval: of whole entities, but accuracy, which is of words.

An entity is right where its first word, its last word and its type are; Tjong Kim Sang and De
Meulder 2003, "Introduction to the CoNLL-2003 Shared Task".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lora2.data.tasks.metric_names import TAG_METRICS
from lora2.support.extras import require
from lora2.support.ignored_label import IGNORED

if TYPE_CHECKING:
    from transformers import EvalPrediction

EXTRA = "tags"
# The tag of a word whose logits are not finite.
_NOT_FINITE = -1


def chosen_tags(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the tag of each place, [rows, length], of logits [rows, length, tags].

    It is -1 where a logit is not finite. For `Trainer(preprocess_logits_for_metrics=...)`, so that
    no logits of a whole set are kept.
    """
    finite = logits.isfinite().all(-1)
    return torch.where(finite, logits.argmax(-1), _NOT_FINITE)


def entity_metrics(
    expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the metrics of rows of tags; both have equally many tags in each row.

    Raises:
        UserError: seqeval is not installed.
    """
    metrics = require("seqeval.metrics", extra=EXTRA)
    rows = [list(row) for row in expected], [list(row) for row in found]
    # zero_division: without an entity, F1 is 0 and no warning.
    options: Mapping[str, Mapping[str, Any]] = {"accuracy": {}}
    return {
        name: float(
            getattr(metrics, f"{name}_score")(*rows, **options.get(name, {"zero_division": 0}))
        )
        for name in TAG_METRICS
    }


def compute_entity_metrics(
    label_names: Sequence[str],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a function for `Trainer(compute_metrics=...)`, after `chosen_tags`.

    Where a logit was not finite, all metrics are NaN: a run that diverged must not look like one
    that finds nothing.

    Raises:
        UserError: seqeval is not installed.
    """
    # A missing package is found now rather than after the first epoch.
    require("seqeval.metrics", extra=EXTRA)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        found = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        labels = np.asarray(prediction.label_ids)
        counted = labels != IGNORED
        if (found[counted] == _NOT_FINITE).any():
            return dict.fromkeys(TAG_METRICS, float("nan"))
        names = np.asarray(label_names, dtype=object)
        return entity_metrics(
            *(
                [list(names[row[here]]) for row, here in zip(tags, counted, strict=True)]
                for tags in (labels, found)
            )
        )

    return compute
