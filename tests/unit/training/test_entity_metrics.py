"""Metrics of tags against cases that are counted by hand."""

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from lora2.training.scores.entity_metrics import chosen_tags, compute_entity_metrics, entity_metrics

# Right tags, found tags: precision, recall, F1, accuracy.
CASES = {
    "all right": ("B-x I-x O", "B-x I-x O", 1, 1, 1, 1),
    "an end is missed": ("B-x I-x O", "B-x O O", 0, 0, 0, 2 / 3),
    "another type": ("B-x I-x O", "B-y I-y O", 0, 0, 0, 1 / 3),
    "one of two found": ("B-x O B-y O", "B-x O O O", 1, 1 / 2, 2 / 3, 3 / 4),
    "one too many": ("B-x O O O", "B-x O B-y O", 1 / 2, 1, 2 / 3, 3 / 4),
    "nothing found": ("B-x O", "O O", 0, 0, 0, 1 / 2),
    "nothing to find": ("O O", "O O", 0, 0, 0, 1),
    "an I begins an entity": ("B-x I-x", "I-x I-x", 1, 1, 1, 1 / 2),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_of_entities(case):
    right, found, *figures = CASES[case]
    got = entity_metrics([right.split()], [found.split()])
    names = ("precision", "recall", "f1", "accuracy")
    assert [got[name] for name in names] == pytest.approx(figures)


def test_entities_of_all_rows_count_alike():
    got = entity_metrics([["B-x", "B-x", "B-x"], ["B-x"]], [["B-x", "B-x", "B-x"], ["O"]])
    assert got["recall"] == pytest.approx(3 / 4)


NAMES = ("O", "B-x", "I-x")
LABELS = np.array([[-100, 1, 2, -100], [-100, 0, -100, -100]])


def scores(logits):
    chosen = chosen_tags(torch.tensor(logits)).numpy()
    return compute_entity_metrics(NAMES)(EvalPrediction(chosen, LABELS))


def test_places_without_a_label_are_not_counted():
    logits = np.zeros((2, 4, 3))
    logits[0, 1, 1] = logits[0, 2, 2] = logits[1, 1, 0] = 1
    # A special token that looks like an entity.
    logits[:, 0, 1] = 9
    assert scores(logits)["f1"] == 1


def test_logits_that_are_not_finite_give_nan():
    logits = np.zeros((2, 4, 3))
    logits[0, 1, 2] = np.inf
    assert all(np.isnan(value) for value in scores(logits).values())
