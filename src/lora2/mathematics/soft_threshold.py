"""The proximal step of SoRA: gates shrink towards zero, and small ones become zero.

Ding et al. 2023, "Sparse Low-rank Adaptation of Pre-trained Language Models" (arXiv 2311.11696):
after each gradient step on the gates g, which carry an l1 penalty, g ← T_ξ(g) with

    T_ξ(g) = sign(g) · max(|g| − ξ, 0)

the minimum over z of (z − g)²/2 + ξ |z|. The authors' released optimizer also sets ξ < |g| < 2ξ to
zero, since it subtracts before it compares; here it is the operator of the paper.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

ThresholdShape = Literal["constant", "linear", "log_linear", "exp_linear"]

THRESHOLD_SHAPES: tuple[str, ...] = get_args(ThresholdShape)


def soft_threshold(g: Tensor, threshold: float) -> Tensor:
    """Return T_ξ(g), of any shape, for ξ = threshold ≥ 0."""
    return torch.sign(g) * torch.relu(g.abs() - threshold)


def threshold_at(
    step: int, *, total_steps: int, first: float, last: float, stages: int, shape: ThresholdShape
) -> float:
    """Return ξ at optimizer step `step`, counted from 1 to total_steps.

    A training is cut into `stages` equal parts, of which each has one ξ, from `first` to `last`:
    at equal distances ("linear"), at equal distances of exp ξ ("log_linear") or of log ξ
    ("exp_linear"). These are the sparsifying schedules of the authors' code, by its names;
    "constant" stays at `first`.
    """
    if shape == "constant" or stages == 1:
        return first
    share = (step - 1) * stages // total_steps / (stages - 1)
    if shape == "linear":
        return first + (last - first) * share
    if shape == "log_linear":
        return math.log(math.exp(first) + (math.exp(last) - math.exp(first)) * share)
    return math.exp(math.log(first) + (math.log(last) - math.log(first)) * share)
