"""Sizes by patterns of names: which entry counts, and how many there may be."""

import pytest
from peft.utils.other import get_pattern_key

from lora2.tuners.base.config.patterns import looked_up, pattern_for, unmatched

NAME = "model.layers.1.q_proj"
EXPERT = "model.layers.1.mlp.experts.matrices.down_proj.3"


@pytest.mark.parametrize(
    "pattern",
    [
        {"q_proj": 2, "layers.1.q_proj": 3},
        {"layers.1.q_proj": 3, "q_proj": 2},
        {r"layers\.\d+\..*": 4, "q_proj": 2},
        {"q_proj": 2, r"layers\.\d+\..*": 4},
        {"^q_proj": 5, "proj": 6, "_proj": 7},
        {f"^{NAME}": 5, "q_proj": 2},
        {"(q|k)_proj": 8},
        {},
    ],
    ids=str,
)
def test_the_entry_that_counts_is_the_one_of_peft(pattern):
    expected = pattern.get(get_pattern_key(list(pattern), NAME), 1)
    assert looked_up(pattern, NAME, 1) == expected


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ({"down_proj": 2}, 2),
        ({"experts.down_proj": 2, "down_proj.3": 3}, 3),
        ({r".*\.experts\.down_proj": 2}, 2),
        ({"down_proj.2": 3}, 1),
        ({"gate_up_proj": 3}, 1),
    ],
    ids=str,
)
def test_an_expert_has_its_own_entry_or_that_of_its_parameter(pattern, size):
    assert looked_up(pattern, EXPERT, 1) == size


def test_a_name_that_ends_another_is_written_as_a_whole():
    sizes = {"proj": 2, "layers.proj": 8, "other": 3}
    pattern = pattern_for(sizes, {}, 8)
    assert pattern == {"^proj": 2, "other": 3}
    assert {name: looked_up(pattern, name, 8) for name in sizes} == sizes


def test_entries_without_a_layer_are_found():
    pattern = ["q_proj", "w1", f"^{NAME}", "^q_proj", r"(k|v)_proj", r"layers\.1\..*"]
    assert unmatched(pattern, [NAME]) == [r"(k|v)_proj", "^q_proj", "w1"]


def test_thousands_of_experts_are_found_again():
    """As a pruned Qwen3-30B-A3B has them; each key as an expression would take an hour."""
    sizes = {
        f"layers.{layer}.mlp.experts.matrices.{own}.{expert}": expert % 7
        for layer in range(48)
        for own in ("gate_up_proj", "down_proj")
        for expert in range(128)
    }
    pattern = pattern_for(sizes, {}, 8)
    assert pattern_for(sizes, pattern, 8) == pattern
