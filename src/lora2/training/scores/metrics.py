"""Metrics of the tasks, by name, from scikit-learn and SciPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lora2.errors import UserError
from lora2.support.extras import require

if TYPE_CHECKING:
    from transformers import EvalPrediction

Array = np.ndarray[Any, Any]
Metric = Callable[[Array, Array], float]


def compute_metrics(names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return a function for `Trainer(compute_metrics=...)` that computes the named metrics.

    Its result has the keys `names`; Trainer prefixes them ("eval_accuracy"). Logits that are not
    finite give NaN for every metric: a run that diverged must not look like one at chance.

    Raises:
        UserError: an unknown name, or scikit-learn or SciPy is not installed.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UserError(f"metrics: got {unknown[0]!r}; write one of {', '.join(METRICS)}.")
    # A missing package is found now rather than after the first epoch.
    require("scipy.stats", extra="train")
    require("sklearn.metrics", extra="train")

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        outputs = prediction.predictions
        # Models that return more than logits give a tuple that starts with them.
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs, dtype=np.float64)
        labels = np.asarray(prediction.label_ids)
        if not np.isfinite(logits).all():
            return dict.fromkeys(names, float("nan"))
        return {name: METRICS[name](logits, labels) for name in names}

    return compute


def _accuracy(logits: Array, labels: Array) -> float:
    return float(require("sklearn.metrics", extra="train").accuracy_score(labels, _classes(logits)))


def _f1(logits: Array, labels: Array) -> float:
    """F1 of class 1 if there are two classes, else the mean of F1 over the classes (macro)."""
    metrics = require("sklearn.metrics", extra="train")
    average = "binary" if logits.shape[-1] == 2 else "macro"
    # zero_division: a model that never predicts class 1 has F1 = 0, without a warning.
    score = metrics.f1_score(labels, _classes(logits), average=average, zero_division=0.0)
    return float(score)


def _matthews_correlation(logits: Array, labels: Array) -> float:
    classes = _classes(logits)
    # 0/0 by the formula; 0 is the accepted value (no better than chance). Returned here, because
    # scikit-learn warns when labels and predictions hold one and the same class.
    if np.unique(classes).size < 2 or np.unique(labels).size < 2:
        return 0.0
    return float(require("sklearn.metrics", extra="train").matthews_corrcoef(labels, classes))


def _pearson(logits: Array, labels: Array) -> float:
    return _correlation("pearsonr", logits, labels)


def _spearman(logits: Array, labels: Array) -> float:
    return _correlation("spearmanr", logits, labels)


def _correlation(function: str, logits: Array, labels: Array) -> float:
    predictions = logits.reshape(len(labels), -1)[:, 0]
    labels = labels.astype(np.float64).reshape(-1)
    # A correlation with a constant is 0/0. It is defined as 0.0 here, as Matthews correlation is:
    # a model that says the same of every pair knows nothing of the order. NaN would not do, since
    # no number is greater than NaN: if the first evaluation gave NaN, it would stay the best.
    if _is_constant(predictions) or _is_constant(labels):
        return 0.0
    stats = require("scipy.stats", extra="train")
    return float(getattr(stats, function)(predictions, labels).statistic)


def _is_constant(values: Array) -> bool:
    # The tolerance is far below what fp32 tells apart, and above the one at which SciPy warns
    # that the result is rounding noise.
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _classes(logits: Array) -> Array:
    classes: Array = logits.argmax(axis=-1)
    return classes


METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews_correlation,
    "pearson": _pearson,
    "spearman": _spearman,
}
