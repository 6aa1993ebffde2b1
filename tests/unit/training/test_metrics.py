"""Metrics against their definitions, and where the definition is 0/0. Warnings are errors here."""

import math

import numpy as np
import pytest
from transformers import EvalPrediction

from lora2.errors import UserError
from lora2.training.scores.metrics import METRICS, compute_metrics

pytestmark = pytest.mark.filterwarnings("error")


def measure(names: list[str], predictions: object, labels: list) -> dict[str, float]:
    return compute_metrics(names)(EvalPrediction(predictions, np.array(labels)))


def logits(classes: list[int], count: int = 2) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


# 3 true positives, 1 false negative, 2 false positives, 4 true negatives.
LABELS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTED = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_binary_metrics_equal_their_definitions():
    result = measure(["accuracy", "f1", "matthews_correlation"], logits(PREDICTED), LABELS)
    assert result["accuracy"] == pytest.approx(0.7)
    assert result["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    matthews = (3 * 4 - 2 * 1) / math.sqrt((3 + 2) * (3 + 1) * (4 + 2) * (4 + 1))
    assert result["matthews_correlation"] == pytest.approx(matthews)


def test_f1_of_three_classes_is_their_mean():
    labels, predicted = [0, 0, 1, 2], [0, 1, 1, 2]
    assert measure(["f1"], logits(predicted, 3), labels)["f1"] == pytest.approx(
        (2 / 3 + 2 / 3 + 1) / 3
    )


def test_correlations_equal_their_definitions():
    # One column of outputs, as a regression head gives it; monotone but not linear.
    result = measure(["pearson", "spearman"], np.array([[1.0], [2.0], [4.0]]), [0.0, 1.0, 2.0])
    assert result["spearman"] == pytest.approx(1.0)
    assert result["pearson"] == pytest.approx(3 / math.sqrt(2 * (14 / 3)))
    falling = measure(["pearson"], np.array([[3.0], [2.0], [1.0]]), [0.0, 1.0, 2.0])
    assert falling["pearson"] == pytest.approx(-1.0)


CONSTANTS = {
    "predictions": ([0, 0, 0, 0], [0, 1, 0, 1]),
    "labels": ([0, 1, 0, 1], [1, 1, 1, 1]),
    "both, different": ([0, 0, 0, 0], [1, 1, 1, 1]),
    "both, the same": ([1, 1, 1, 1], [1, 1, 1, 1]),
}


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearman"])
def test_a_correlation_with_a_constant_is_zero(name, constant):
    predicted, labels = CONSTANTS[constant]
    outputs = logits(predicted) if name == "matthews_correlation" else np.array(predicted)[:, None]
    assert measure([name], outputs, labels) == {name: 0.0}


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_rounding_noise_around_a_constant_counts_as_constant(name):
    noise = np.array([[2.5], [2.5 + 1e-12], [2.5 - 1e-12]])
    assert measure([name], noise, [0.0, 1.0, 2.0]) == {name: 0.0}


@pytest.mark.parametrize("name", METRICS)
def test_one_row_gives_a_number_without_a_warning(name):
    outputs = np.array([[1.5]]) if name in ("pearson", "spearman") else logits([0])
    assert math.isfinite(measure([name], outputs, [0])[name])


def test_f1_without_any_positive_is_zero():
    assert measure(["f1"], logits([0, 0]), [0, 1]) == {"f1": 0.0}
    assert measure(["f1"], logits([0, 0]), [0, 0]) == {"f1": 0.0}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_diverged_model_gives_nan_not_chance(name, broken):
    outputs = np.array([[broken, 0.0], [0.0, 1.0]])
    assert math.isnan(measure([name], outputs, [0, 1])[name])


def test_the_first_of_several_outputs_holds_the_logits():
    outputs = (logits([0, 1]), np.zeros((2, 5, 7)))
    assert measure(["accuracy"], outputs, [0, 1]) == {"accuracy": 1.0}


def test_half_precision_logits_are_accepted():
    outputs = np.array([[0.1], [0.2], [0.3]], dtype=np.float16)
    assert measure(["pearson"], outputs, [0.0, 1.0, 2.0])["pearson"] == pytest.approx(1, abs=1e-3)


def test_an_unknown_metric_is_refused_at_once():
    with pytest.raises(UserError, match="metrics: got 'bleu'; write one of accuracy"):
        compute_metrics(["accuracy", "bleu"])
