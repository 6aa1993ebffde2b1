"""Small adapters as data: every relation of k and r, both orientations of d, and a seed each."""

from dataclasses import dataclass

import torch

from oracle import Factors


@dataclass(frozen=True)
class Case:
    """The shape of one adapted matrix (d_in x d_out, outer size k, r singular values)."""

    name: str
    d_in: int
    d_out: int
    k: int
    r: int
    seed: int

    def factors(self, requires_grad: bool = False) -> Factors:
        """Random float64 factors, all of them non-zero."""
        return Factors(*(tensor.requires_grad_(requires_grad) for tensor in self._draw(self.seed)))

    def direction(self) -> torch.Tensor:
        """A fixed [d_in, d_out] matrix to contract a delta with, so that a gradient is generic."""
        generator = torch.Generator().manual_seed(self.seed + 1_000)
        return torch.randn(self.d_in, self.d_out, generator=generator, dtype=torch.float64)

    def gradients(self, step: int) -> Factors:
        """Random gradients of the five factors at one optimizer step."""
        return Factors(*self._draw(self.seed + 7_919 * (step + 1)))

    def _draw(self, seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = (
            (self.d_in, self.k),
            (self.k, self.r),
            (self.r,),
            (self.r, self.k),
            (self.k, self.d_out),
        )
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


CASES = (
    Case("k_below_r", d_in=7, d_out=5, k=2, r=4, seed=1),
    Case("k_equals_r", d_in=6, d_out=6, k=3, r=3, seed=2),
    Case("k_above_r", d_in=5, d_out=8, k=4, r=2, seed=3),
    Case("k_is_one", d_in=6, d_out=5, k=1, r=5, seed=4),
    Case("r_is_one", d_in=4, d_out=7, k=3, r=1, seed=5),
    Case("both_are_one", d_in=3, d_out=5, k=1, r=1, seed=6),
    Case("k_equals_d_in", d_in=3, d_out=6, k=3, r=2, seed=7),
)
"""Shapes for values and gradients. r never exceeds d_in or d_out, as in every real layer."""
CASE_IDS = tuple(case.name for case in CASES)


@dataclass(frozen=True)
class Schedule:
    """A pruning schedule and the budgets, worked out by hand, that it must give at named steps."""

    name: str
    kind: str
    total_steps: int
    warmup_steps: int
    final_steps: int
    initial: int
    final: int
    budgets: dict[int, int]
    interval: int = 1


# With u = (80 - t) / 70 the fractional budgets below are 16 + 48 u^3 and 16 + 48 u, rounded down:
#   t = 11: u = 69/70, 48 u^3 = 45.97,   48 u = 47.31
#   t = 24: u = 4/5,   48 u^3 = 24.576,  48 u = 38.4
#   t = 45: u = 1/2,   48 u^3 = 6,       48 u = 24
#   t = 59: u = 3/10,  48 u^3 = 1.296,   48 u = 14.4
#   t = 79: u = 1/70,  48 u^3 = 0.00014, 48 u = 0.686
SCHEDULES = (
    Schedule(
        "cubic", "cubic", 100, 10, 20, 64, 16,
        {0: 64, 9: 64, 10: 64, 11: 61, 24: 40, 45: 22, 59: 17, 79: 16, 80: 16, 99: 16, 100: 16},
    ),
    Schedule(
        "linear", "linear", 100, 10, 20, 64, 16,
        {0: 64, 9: 64, 10: 64, 11: 63, 24: 54, 45: 40, 59: 30, 79: 16, 80: 16, 99: 16, 100: 16},
    ),
    Schedule(
        "constant", "constant", 100, 10, 20, 64, 16,
        {0: 64, 9: 64, 10: 64, 11: 16, 45: 16, 79: 16, 80: 16, 99: 16, 100: 16},
    ),
    # Changes at t = 20, 30, ... only: 48 u^3 = 30.2 at 20, 17.5 at 30, 9.0 at 40, 0.14 at 70.
    Schedule(
        "cubic_every_10", "cubic", 100, 10, 20, 64, 16,
        {0: 64, 10: 64, 11: 64, 19: 64, 20: 46, 29: 46, 30: 33, 45: 24, 79: 16, 80: 16, 100: 16},
        interval=10,
    ),
    # Changes at t = 40 and 70, and at 80 because the last steps begin: 48 u = 27.4, 6.9, 0.
    Schedule(
        "linear_every_30", "linear", 100, 10, 20, 64, 16,
        {0: 64, 10: 64, 11: 64, 39: 64, 40: 43, 69: 43, 70: 22, 79: 22, 80: 16, 99: 16, 100: 16},
        interval=30,
    ),
    # u = (8 - t) / 8: 8 u^3 = 5.36, 3.375, 1.95, 1, 0.42, 0.125, 0.0156 at t = 1 .. 7.
    Schedule(
        "cubic_without_ends", "cubic", 8, 0, 0, 8, 0,
        {0: 8, 1: 5, 2: 3, 3: 1, 4: 1, 5: 0, 6: 0, 7: 0, 8: 0},
    ),
    Schedule(
        "cubic_one_step_between_the_ends", "cubic", 10, 5, 4, 20, 7,
        {0: 20, 4: 20, 5: 20, 6: 7, 7: 7, 10: 7},
    ),
    Schedule(
        "no_pruning", "cubic", 100, 10, 20, 64, 64,
        {0: 64, 10: 64, 11: 64, 45: 64, 79: 64, 80: 64, 100: 64},
    ),
)  # fmt: skip
SCHEDULE_IDS = tuple(schedule.name for schedule in SCHEDULES)


TIES = (
    ("all_equal_zero", [0.0] * 6, 4),
    ("tie_across_the_cut", [1.0, 3.0, 2.0, 2.0, 2.0, 0.0], 2),
    ("tie_above_the_cut", [5.0, 5.0, 1.0, 0.0], 2),
    ("nothing_kept", [1.0, 1.0, 2.0], 0),
    ("everything_kept", [1.0, 1.0, 2.0], 3),
    ("no_tie", [0.1, 0.4, 0.3, 0.2], 2),
    ("two_tied_groups", [2.0, 1.0, 2.0, 1.0, 2.0, 1.0], 4),
    ("nearly_equal", [1.0, 1.0 + 2**-52, 1.0, 1.0 + 2**-52], 3),
    ("many_equal", [1.0] * 300 + [2.0] + [1.0] * 99, 137),
)
"""Scores with ties, and a budget."""
