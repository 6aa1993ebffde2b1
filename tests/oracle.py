"""A slow, literal oracle of the LoRA² paper (arXiv 2408.06854); no code of the package is used.

Each function is one printed formula, entry by entry in float64, in the paper's row convention
y = x W with W of shape d_in x d_out:

    v   [d_in, k]    outer left factor          U    [r, k]      inner right factor (calligraphic U)
    u   [k, r]       inner left factor          V    [k, d_out]  outer right factor (calligraphic V)
    lam [r]          the diagonal of Lambda     delta = v u diag(lam) U V

Nothing is batched and nothing is simplified: d x d matrices are built where the paper prints them.
Everything is made of differentiable scalars, so that autograd through it gives reference gradients.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """The five trainable tensors of one adapted matrix."""

    v: Tensor
    u: Tensor
    lam: Tensor
    U: Tensor
    V: Tensor


# ---------------------------------------------------------------------------------- matrices


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product by its definition, entry (a, b) = sum over j of left[a, j] right[j, b]."""
    rows, inner = left.shape
    assert right.shape[0] == inner
    return torch.stack(
        [
            torch.stack([(left[a, :] * right[:, b]).sum() for b in range(right.shape[1])])
            for a in range(rows)
        ]
    )


def transpose(matrix: Tensor) -> Tensor:
    """Entry (a, b) of the result is entry (b, a) of the argument."""
    rows, columns = matrix.shape
    return torch.stack([torch.stack([matrix[a, b] for a in range(rows)]) for b in range(columns)])


def distance_from_identity(square: Tensor) -> Tensor:
    """Squared Frobenius norm of (square - I)."""
    size = square.shape[0]
    assert square.shape == (size, size)
    total = torch.zeros((), dtype=torch.float64)
    for a in range(size):
        for b in range(size):
            total = total + (square[a, b] - (1.0 if a == b else 0.0)) ** 2
    return total


def inverse_square_root(gram: Tensor, nodes: int = 400) -> Tensor:
    """gram^(-1/2) of a symmetric positive definite matrix, from the integral

        gram^(-1/2) = (2 / pi) * integral over 0 < t < pi/2 of (sin(t)^2 I + cos(t)^2 gram)^(-1) dt

    by the midpoint rule, which converges geometrically because the integrand is periodic and
    analytic. No eigenvectors are formed, so repeated eigenvalues have nothing to divide by.
    """
    size = gram.shape[0]
    identity = torch.eye(size, dtype=torch.float64)
    with torch.no_grad():
        eigenvalues = torch.linalg.eigvalsh(gram)
        scale = math.sqrt(float(eigenvalues[0]) * float(eigenvalues[-1]))
    total = torch.zeros(size, size, dtype=torch.float64)
    for node in range(nodes):
        angle = (node + 0.5) * (math.pi / 2) / nodes
        mixed = math.sin(angle) ** 2 * identity + math.cos(angle) ** 2 * (gram / scale)
        total = total + torch.linalg.inv(mixed) / nodes
    return total / math.sqrt(scale)


def orthonormalised(v: Tensor) -> Tensor:
    """v (v^T v)^(-1/2): the matrix with orthonormal columns that is nearest to v."""
    return product(v, inverse_square_root(product(transpose(v), v)))


# ------------------------------------------------------------------------------ the adapter, eq. 4


def left_directions(v: Tensor, u: Tensor) -> Tensor:
    """P = v u, shape [d_in, r]."""
    return product(v, u)


def right_directions(U: Tensor, V: Tensor) -> Tensor:
    """Q = U V, shape [r, d_out]."""
    return product(U, V)


def core(u: Tensor, lam: Tensor, U: Tensor) -> Tensor:
    """M = u diag(lam) U, shape [k, k]: M[a, b] = sum over i of u[a, i] lam[i] U[i, b]."""
    k, r = u.shape
    rows = []
    for a in range(k):
        row = []
        for b in range(k):
            entry = torch.zeros((), dtype=torch.float64)
            for i in range(r):
                entry = entry + u[a, i] * lam[i] * U[i, b]
            row.append(entry)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def delta(factors: Factors, scaling: float = 1.0, orthonormalize: bool = False) -> Tensor:
    """Delta = P diag(lam) Q, [d_in, d_out] as in the paper, one singular term at a time."""
    v = orthonormalised(factors.v) if orthonormalize else factors.v
    P = left_directions(v, factors.u)
    Q = right_directions(factors.U, factors.V)
    total = torch.zeros(P.shape[0], Q.shape[1], dtype=torch.float64)
    for i in range(factors.lam.shape[0]):
        column = torch.stack([P[a, i] for a in range(P.shape[0])])
        total = total + factors.lam[i] * product(column[:, None], Q[i : i + 1, :])
    return scaling * total


def trainable_parameters(d_in: int, d_out: int, k: int, r: int) -> int:
    """The entries of v, u, lam, U and V, counted tensor by tensor."""
    return d_in * k + k * r + r + r * k + k * d_out


# ------------------------------------------------------------------------- orthogonality, eq. 5


def printed_penalty_PQ(factors: Factors) -> Tensor:
    """R(P, Q) = |P^T P - I_r|^2 + |Q Q^T - I_r|^2."""
    P = left_directions(factors.v, factors.u)
    Q = right_directions(factors.U, factors.V)
    return distance_from_identity(product(transpose(P), P)) + distance_from_identity(
        product(Q, transpose(Q))
    )


def printed_penalty_UV(factors: Factors) -> Tensor:
    """R(U, V) = |U^T U - I_k|^2 + |V V^T - I_k|^2."""
    return distance_from_identity(
        product(transpose(factors.U), factors.U)
    ) + distance_from_identity(product(factors.V, transpose(factors.V)))


def printed_penalty_uv(factors: Factors) -> Tensor:
    """R(u, v) = |u^T u - I_r|^2 + |v v^T - I_d_in|^2, with its d_in x d_in matrix."""
    return distance_from_identity(
        product(transpose(factors.u), factors.u)
    ) + distance_from_identity(product(factors.v, transpose(factors.v)))


_CHOICES: dict[str, tuple[Callable[[Factors], Tensor], ...]] = {
    "uv": (printed_penalty_uv,),
    "UV": (printed_penalty_UV,),
    "uv&UV": (printed_penalty_uv, printed_penalty_UV),
    "P&Q": (printed_penalty_PQ,),
    "all": (printed_penalty_uv, printed_penalty_UV, printed_penalty_PQ),
}
CHOICES = tuple(_CHOICES)
"""The five choices of Table 3."""


def printed_penalty(factors: Factors, choice: str) -> Tensor:
    """The sum of the printed norms of one choice of Table 3."""
    return torch.stack([term(factors) for term in _CHOICES[choice]]).sum()


def least_printed_penalty(d_in: int, k: int, r: int, choice: str) -> int:
    """The smallest value that the printed norms of a choice can take, from ranks alone.

    A Gram matrix of size n and rank at most m < n has n - m eigenvalues 0, each of which is 1 away
    from I's; the other eigenvalues can all be 1. v has rank k, V has rank k, and u, U, P and Q have
    rank min(k, r). All of it is reached at once by factors with orthonormal short sides.
    """
    rank = min(k, r)
    least_uv = (r - rank) + (d_in - k)
    least_UV = (k - rank) + (k - k)
    least_PQ = (r - rank) + (r - rank)
    return {
        "uv": least_uv,
        "UV": least_UV,
        "uv&UV": least_uv + least_UV,
        "P&Q": least_PQ,
        "all": least_uv + least_UV + least_PQ,
    }[choice]


def constant_free_penalty(factors: Factors, choice: str) -> Tensor:
    """The printed penalty less the smallest value it can take: 0 for the best factors."""
    d_in, k = factors.v.shape
    r = factors.lam.shape[0]
    return printed_penalty(factors, choice) - least_printed_penalty(d_in, k, r, choice)


# ------------------------------------------------------------------- sensitivity and importance


class Averages(NamedTuple):
    """Smoothed sensitivity and its uncertainty, one entry per scored parameter."""

    sensitivity: Tensor
    uncertainty: Tensor


def no_averages(parameter: Tensor) -> Averages:
    """The averages before the first step: zero."""
    return Averages(
        torch.zeros(parameter.shape, dtype=torch.float64),
        torch.zeros(parameter.shape, dtype=torch.float64),
    )


def next_averages(
    previous: Averages, parameter: Tensor, gradient: Tensor, beta1: float, beta2: float
) -> Averages:
    """One step of AdaLoRA's recursion, in Python floats:

    I = |w g|
    mean' = beta1 mean + (1 - beta1) I
    spread' = beta2 spread + (1 - beta2) |I - mean'|
    """
    old_means = previous.sensitivity.flatten().tolist()
    old_spreads = previous.uncertainty.flatten().tolist()
    weights = parameter.detach().flatten().tolist()
    gradients = gradient.flatten().tolist()
    means, spreads = [], []
    for mean, spread, w, g in zip(old_means, old_spreads, weights, gradients, strict=True):
        sensitivity = abs(w * g)
        mean = beta1 * mean + (1.0 - beta1) * sensitivity
        means.append(mean)
        spreads.append(beta2 * spread + (1.0 - beta2) * abs(sensitivity - mean))
    shape = parameter.shape
    return Averages(
        torch.tensor(means, dtype=torch.float64).reshape(shape),
        torch.tensor(spreads, dtype=torch.float64).reshape(shape),
    )


def score(averages: Averages) -> Tensor:
    """S = smoothed sensitivity times uncertainty, entry by entry."""
    return averages.sensitivity * averages.uncertainty


def importance_reduced(scores: Factors) -> Tensor:
    """Eq. 9, from the scores S of u, lam and U (those of v and V are not read)."""
    k, r = scores.u.shape
    importance = []
    for i in range(r):
        left = sum(float(scores.u[j, i]) for j in range(k))
        right = sum(float(scores.U[i, j]) for j in range(k))
        importance.append(float(scores.lam[i]) + left / k + right / k)
    return torch.tensor(importance, dtype=torch.float64)


def importance_full(scores: Factors) -> Tensor:
    """Eq. 8, from the scores S of all five factors; the outer ones count as whole matrices."""
    k, r = scores.u.shape
    outer_left = sum(scores.v.flatten().tolist())
    outer_right = sum(scores.V.flatten().tolist())
    importance = []
    for i in range(r):
        left = sum(float(scores.u[j, i]) for j in range(k))
        right = sum(float(scores.U[i, j]) for j in range(k))
        importance.append(
            float(scores.lam[i]) + (left + outer_left) / k + (right + outer_right) / k
        )
    return torch.tensor(importance, dtype=torch.float64)


# ---------------------------------------------------------------------------------- pruning


def exact_budget(
    step: int,
    total_steps: int,
    initial: int,
    final: int,
    warmup_steps: int,
    final_steps: int,
    kind: str,
    interval: int = 1,
) -> Fraction:
    """b(t) of Algorithm 1 as an exact fraction, for warmup_steps + final_steps < total_steps.

    initial until t_init; then final + (initial - final) (1 - progress)^p, recomputed only at
    t_init + interval, t_init + 2 interval, ...; then final for the last t_final steps. p = 3 is the
    paper's cubic and p = 1 a line; "constant" holds final from the end of the warm-up on.
    """
    assert warmup_steps + final_steps < total_steps
    if step <= warmup_steps:
        return Fraction(initial)
    if step >= total_steps - final_steps or kind == "constant":
        return Fraction(final)
    applied = warmup_steps
    while applied + interval <= step:
        applied += interval
    progress = Fraction(applied - warmup_steps, total_steps - warmup_steps - final_steps)
    power = {"cubic": 3, "linear": 1}[kind]
    return final + (initial - final) * (1 - progress) ** power


def budget(
    step: int,
    total_steps: int,
    initial: int,
    final: int,
    warmup_steps: int,
    final_steps: int,
    kind: str,
    interval: int = 1,
) -> int:
    """The whole part of the exact budget, as AdaLoRA's schedule takes it."""
    return math.floor(
        exact_budget(step, total_steps, initial, final, warmup_steps, final_steps, kind, interval)
    )


def keep_set(scores: Sequence[float], budget: int) -> list[bool]:
    """Exactly `budget` True: the largest scores, and among equal scores the lower indices."""
    kept = [False] * len(scores)
    for _ in range(budget):
        best = None
        for index, candidate in enumerate(scores):
            if not kept[index] and (best is None or candidate > scores[best]):
                best = index
        assert best is not None
        kept[best] = True
    return kept


def keep_set_for_costs(scores: Sequence[float], costs: Sequence[int], budget: int) -> list[bool]:
    """One value after the other by score over cost, until one does not fit into the budget.

    Values that cost more than the whole budget are left out.
    """
    kept = [False] * len(scores)
    left = budget
    waiting = [index for index in range(len(scores)) if costs[index] <= budget]
    while waiting:
        best = waiting[0]
        for index in waiting[1:]:
            if scores[index] / costs[index] > scores[best] / costs[best]:
                best = index
        if costs[best] > left:
            break
        kept[best] = True
        left -= costs[best]
        waiting.remove(best)
    return kept


# ------------------------------------------------------------------------------- comparing


def assert_agrees(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal to 1e-10 in float64, with equal shapes and dtypes."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def gradients(value: Tensor, factors: Factors) -> Factors:
    """The gradient of a scalar with respect to each factor; zero where it does not depend on it."""
    return Factors(
        *torch.autograd.grad(value, tuple(factors), allow_unused=True, materialize_grads=True)
    )
