"""The penalty's mean over optimizer steps, of micro-batches whose losses are averaged or summed."""

import pytest
import torch

from lora2.tuners.lora2.penalty_meter import PenaltyMeter


@pytest.mark.parametrize(
    ("losses_are_summed", "steps", "mean"),
    [(False, ((2.0, 2.0), (5.0,)), (2.0 + 5.0) / 2), (True, ((1.0, 3.0), (5.0,)), (4.0 + 5.0) / 2)],
)
def test_mean_over_steps_counts_each_micro_batch_as_the_loss_does(losses_are_summed, steps, mean):
    meter = PenaltyMeter()
    meter.losses_are_summed = losses_are_summed
    for step in steps:
        for penalty in step:
            meter.add(torch.tensor(penalty))
        meter.end_step()
    assert meter.take_mean() == pytest.approx(mean)
    assert meter.take_mean() is None


def test_a_step_without_a_penalty_does_not_count():
    meter = PenaltyMeter()
    meter.end_step()
    assert not meter.has_added
    assert meter.take_mean() is None


def test_a_penalty_is_added_until_the_step_ends():
    meter = PenaltyMeter()
    meter.add(torch.tensor(2.0, requires_grad=True))
    assert meter.has_added
    meter.end_step()
    assert not meter.has_added
    assert meter.take_mean() == 2.0
