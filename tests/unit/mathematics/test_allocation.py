"""Exactly the budgeted number of singular values is kept, ties included."""

import itertools

import pytest
import torch

import oracle
from cases import TIES
from lora2.mathematics.allocation import keep_most_important


@pytest.mark.parametrize(("scores", "budget"), [t[1:] for t in TIES], ids=[t[0] for t in TIES])
def test_kept_set_under_ties(scores: list[float], budget: int) -> None:
    kept = keep_most_important(torch.tensor(scores, dtype=torch.float64), budget)
    assert kept.dtype == torch.bool
    assert kept.sum() == budget
    assert kept.tolist() == oracle.keep_set(scores, budget)


def test_every_small_pattern_of_ties() -> None:
    for scores in itertools.product((0.0, 1.0, 2.0), repeat=4):
        for budget in range(5):
            kept = keep_most_important(torch.tensor(scores, dtype=torch.float64), budget)
            assert kept.tolist() == oracle.keep_set(scores, budget), (scores, budget)


def test_lower_index_wins_a_tie() -> None:
    assert keep_most_important(torch.zeros(5), 2).tolist() == [True, True, False, False, False]
    scores = torch.tensor([0.0, 7.0, 1.0, 7.0, 7.0])
    assert keep_most_important(scores, 2).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("budget", [1, 17, 500, 999])
def test_large_random_scores_keep_the_largest(budget: int) -> None:
    scores = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = keep_most_important(scores, budget)
    assert kept.sum() == budget
    assert scores[kept].min() > scores[~kept].max()


def test_scores_are_left_as_they_were() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0])
    keep_most_important(scores, 1)
    assert scores.tolist() == [1.0, 3.0, 2.0]
