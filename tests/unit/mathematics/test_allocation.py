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


@pytest.mark.parametrize("seed", range(20))
def test_kept_set_within_a_budget_of_costs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(12, generator=generator, dtype=torch.float64)
    # Ties too: the same score at the same cost.
    scores[3], scores[7] = scores[5], scores[5]
    costs = torch.tensor([2, 5, 3, 3, 2, 3, 5, 3, 2, 2, 5, 1])
    for budget in range(int(costs.sum()) + 2):
        kept = keep_most_important(scores, budget, costs)
        assert kept.tolist() == oracle.keep_set_for_costs(scores.tolist(), costs.tolist(), budget)
        assert int(costs[kept].sum()) <= budget


def test_equal_costs_keep_what_no_costs_keep() -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(1))
    for budget in (0, 1, 7, 50):
        kept = keep_most_important(scores, 768 * budget + 767, torch.full((50,), 768))
        assert torch.equal(kept, keep_most_important(scores, budget))


def test_a_value_that_does_not_fit_ends_the_choice() -> None:
    scores, costs = torch.tensor([4.0, 9.0, 0.1]), torch.tensor([2, 3, 1])
    assert keep_most_important(scores, 4, costs).tolist() == [False, True, False]


def test_a_value_that_costs_more_than_the_budget_does_not_empty_the_choice() -> None:
    scores, costs = torch.tensor([9e3, 1.0, 2.0]), torch.tensor([200, 10, 10])
    assert keep_most_important(scores, 15, costs).tolist() == [False, False, True]
    assert keep_most_important(scores, 199, costs).tolist() == [False, True, True]
    assert keep_most_important(scores, 200, costs).tolist() == [True, False, False]
