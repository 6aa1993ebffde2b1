"""Taking turns, and ratios round by round; no test here depends on how long anything takes."""

import gc
from itertools import repeat

import pytest

from benchmark_case import BATCH, TINY_BERT, prepare
from lora2.lab.benchmarks.methods import BENCHMARK_METHODS
from lora2.lab.benchmarks.parts import shares
from lora2.lab.benchmarks.ratios import Spread, differs, overhead, ratio, spread
from lora2.lab.benchmarks.steps import summarize
from lora2.lab.benchmarks.timing import interleaved, order_of_round, training_step

# In the second round the machine was twice as slow, in the third something hit LoRA² alone.
SECONDS = {
    "floor": [1.0, 2.0, 1.0],
    "lora": [2.0, 4.0, 2.0],
    "lora2": [1.5, 3.0, 4.0],
}


def test_the_order_rotates_from_round_to_round():
    assert [order_of_round("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_all_take_part_in_every_round_and_warm_up_is_not_counted():
    called, ticks = [], []
    seconds = interleaved(
        {name: lambda name=name: called.append(name) for name in "abc"},
        rounds=2,
        warm_up=1,
        tick=lambda: ticks.append(1),
    )
    assert "".join(called) == "abcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    assert len(ticks) == len(called)


def test_garbage_is_not_collected_during_a_step():
    during = []
    interleaved({"a": lambda: during.append(gc.isenabled())}, rounds=1, warm_up=0)
    assert during == [False]
    assert gc.isenabled()


def test_every_method_gets_the_same_batch():
    batch = TINY_BERT.batch(BATCH, "cpu")
    before = {name: tensor.clone() for name, tensor in batch.items()}
    seen = {}
    prepared = prepare(*BENCHMARK_METHODS)
    for name, method in prepared.items():
        method.model.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: seen.setdefault(name, []).append(
                kwargs["input_ids"].data_ptr()
            ),
            with_kwargs=True,
        )
    steps = {name: training_step(method, repeat(batch)) for name, method in prepared.items()}
    interleaved(steps, rounds=2, warm_up=1)
    assert seen == {name: 3 * [batch["input_ids"].data_ptr()] for name in BENCHMARK_METHODS}
    assert all(batch[name].equal(before[name]) for name in batch)


def test_ratios_are_taken_within_each_round():
    # 0.75, 0.75, 2: the ratio of the medians would be 3 / 2.
    assert ratio(SECONDS, "lora2", "lora") == Spread(0.75, 0.75, 1.375)
    # 0.5, 0.5, 3.
    assert overhead(SECONDS, "lora2") == Spread(0.5, 0.5, 1.75)


def test_spread_is_median_and_quartiles():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("median", "lower", "upper", "expected"),
    [
        (1.3, 1.2, 1.4, True),
        (0.7, 0.6, 0.8, True),
        (1.1, 1.0, 1.25, False),
        (0.95, 0.9, 1.1, False),
        (1.0, 1.0, 1.0, True),
    ],
)
def test_two_differ_by_more_than_the_rounds_scatter(median, lower, upper, expected):
    assert differs(median, lower, upper) == expected


def test_the_summary_holds_only_the_baselines_that_were_measured():
    summary = summarize(SECONDS)
    assert summary["lora2"]["seconds"]["median"] == 3.0
    assert summary["lora2"]["ratios"].keys() == {"floor", "lora"}
    assert summary["lora2"]["overhead"]["median"] == 0.5
    assert "overhead" not in summarize({"lora": [1.0], "lora2": [1.0]})["lora2"]


def test_shares_are_parts_of_the_step_of_the_same_round():
    found = shares(
        {
            "step": [1.0, 2.0],
            "allocation": [0.25, 0.25],
            "factors": [0.75, 1.0],
            "factors, not orthonormal": [0.25, 0.5],
            "penalty": [0.125, 1.0],
        }
    )
    assert found == {
        "allocation": [0.25, 0.125],
        "exact orthogonality": [0.5, 0.25],
        "penalty": [0.125, 0.5],
        "exact orthogonality and allocation": [0.75, 0.375],
        "penalty and allocation": [0.375, 0.625],
    }


@pytest.mark.parametrize("number", range(3))
def test_each_round_holds_everyone_once(number):
    assert sorted(order_of_round(list(BENCHMARK_METHODS), number)) == sorted(BENCHMARK_METHODS)
