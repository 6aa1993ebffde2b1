"""The sensitivity recursion and both importances of a singular value against the oracle."""

import pytest
import torch

import oracle
from cases import CASE_IDS, CASES, Case
from lora2.mathematics.importance import (
    full_importance,
    reduced_importance,
    sensitivity,
    update_averages,
)

STEPS = 5
BETAS = ((0.85, 0.85), (0.5, 0.9), (0.2, 0.3), (0.7, 0.0))

each_case = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)


def _oracle_scores(case: Case, beta1: float, beta2: float) -> oracle.Factors:
    """S of all five factors after a few steps with random gradients."""
    parts = case.factors()
    averages = [oracle.no_averages(part) for part in parts]
    for step in range(STEPS):
        averages = [
            oracle.next_averages(average, part, gradient, beta1, beta2)
            for average, part, gradient in zip(averages, parts, case.gradients(step), strict=True)
        ]
    return oracle.Factors(*(oracle.score(average) for average in averages))


def _package_scores(case: Case, beta1: float, beta2: float) -> oracle.Factors:
    scores = []
    gradients = [case.gradients(step) for step in range(STEPS)]
    for index, part in enumerate(case.factors()):
        average, uncertainty = torch.zeros_like(part), torch.zeros_like(part)
        for step in range(STEPS):
            average, uncertainty = update_averages(
                average, uncertainty, part, gradients[step][index], beta1=beta1, beta2=beta2
            )
        scores.append(sensitivity(average, uncertainty))
    return oracle.Factors(*scores)


@pytest.mark.parametrize(("beta1", "beta2"), BETAS)
@each_case
def test_sensitivity_follows_the_recursion(case: Case, beta1: float, beta2: float) -> None:
    actual = _package_scores(case, beta1, beta2)
    expected = _oracle_scores(case, beta1, beta2)
    for got, wanted in zip(actual, expected, strict=True):
        assert (wanted > 0).all()
        oracle.assert_agrees(got, wanted)


@pytest.mark.parametrize(("beta1", "beta2"), BETAS)
def test_one_step_returns_average_and_uncertainty(beta1: float, beta2: float) -> None:
    case = CASES[0]
    weight, gradient = case.factors().u, case.gradients(0).u
    before = oracle.Averages(case.gradients(1).u.abs(), case.gradients(2).u.abs())
    average, uncertainty = update_averages(*before, weight, gradient, beta1=beta1, beta2=beta2)
    expected = oracle.next_averages(before, weight, gradient, beta1, beta2)
    oracle.assert_agrees(average, expected.sensitivity)
    oracle.assert_agrees(uncertainty, expected.uncertainty)


def test_two_steps_by_hand() -> None:
    """beta1 = 1/2, beta2 = 3/4, |w g| = 8 and then 2: average 4 then 3, uncertainty 1 then 1."""
    weight = torch.tensor([-2.0], dtype=torch.float64)
    average = uncertainty = torch.zeros(1, dtype=torch.float64)
    history = []
    for gradient in (4.0, -1.0):
        average, uncertainty = update_averages(
            average,
            uncertainty,
            weight,
            torch.tensor([gradient], dtype=torch.float64),
            beta1=0.5,
            beta2=0.75,
        )
        history.append(
            (average.item(), uncertainty.item(), sensitivity(average, uncertainty).item())
        )
    assert history == [(4.0, 1.0, 4.0), (3.0, 1.0, 3.0)]


def test_update_leaves_its_arguments_as_they_were() -> None:
    case = CASES[0]
    arguments = [case.gradients(step).u for step in range(4)]
    copies = [argument.clone() for argument in arguments]
    update_averages(*arguments, beta1=0.85, beta2=0.85)
    for argument, copy in zip(arguments, copies, strict=True):
        assert torch.equal(argument, copy)


@each_case
def test_reduced_importance_is_equation_9(case: Case) -> None:
    scores = _oracle_scores(case, 0.85, 0.85)
    actual = reduced_importance(scores.lam, scores.u, scores.U)
    oracle.assert_agrees(actual, oracle.importance_reduced(scores))


@each_case
def test_full_importance_is_equation_8(case: Case) -> None:
    scores = _oracle_scores(case, 0.85, 0.85)
    actual = full_importance(scores.lam, scores.u, scores.U, scores.v, scores.V)
    oracle.assert_agrees(actual, oracle.importance_full(scores))


def test_importances_by_hand() -> None:
    """k = 2, r = 3. Only column i of u and row i of U belong to value i."""
    S_lam = torch.tensor([1.0, 2.0, 3.0])
    S_u = torch.tensor([[10.0, 20.0, 30.0], [30.0, 40.0, 70.0]])
    S_U = torch.tensor([[100.0, 300.0], [200.0, 400.0], [500.0, 900.0]])
    S_v = torch.full((4, 2), 1000.0)
    S_V = torch.full((2, 3), 5000.0)
    reduced = reduced_importance(S_lam, S_u, S_U)
    full = full_importance(S_lam, S_u, S_U, S_v, S_V)
    assert reduced.tolist() == [1 + 20 + 200, 2 + 30 + 300, 3 + 50 + 700]
    assert full.tolist() == [value + 4000 + 15000 for value in reduced.tolist()]


def test_leading_dimensions_are_a_batch() -> None:
    case = CASES[0]
    entries = [
        _oracle_scores(Case("entry", case.d_in, case.d_out, case.k, case.r, seed), 0.85, 0.85)
        for seed in range(6)
    ]
    scores = oracle.Factors(
        *(torch.stack(same).unflatten(0, (2, 3)) for same in zip(*entries, strict=True))
    )
    reduced = reduced_importance(scores.lam, scores.u, scores.U)
    full = full_importance(scores.lam, scores.u, scores.U, scores.v, scores.V)
    assert reduced.shape == full.shape == (2, 3, case.r)
    for index, entry in enumerate(entries):
        oracle.assert_agrees(reduced.flatten(0, 1)[index], oracle.importance_reduced(entry))
        oracle.assert_agrees(full.flatten(0, 1)[index], oracle.importance_full(entry))
