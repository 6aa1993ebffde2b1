"""Kept singular values by layer and matrix, of experts too."""

from typing import Any

import pytest

from lora2.reports.kept_values import initial_ranks, kept_grid, summed_over_experts

KEPT = {
    "model.layers.0.self_attn.q_proj": 3,
    "model.layers.0.mlp.gate.matrices.weight.0": 1,
    **{f"model.layers.0.mlp.experts.matrices.gate_up_proj.{e}": e % 3 for e in range(11)},
    **{f"model.layers.1.mlp.experts.matrices.gate_up_proj.{e}": 1 for e in range(11)},
    "model.layers.1.self_attn.q_proj": 2,
}


def test_each_expert_has_a_column_in_the_order_of_their_numbers():
    grid = kept_grid(KEPT, dict.fromkeys(KEPT, 3))
    assert grid.layers == ("0", "1")
    assert grid.matrices == (
        "q_proj",
        *(f"gate_up_proj.{expert}" for expert in range(11)),
        "gate.weight",
    )
    assert grid.counts[0] == (3, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 1)
    assert grid.counts[1] == (2, *[1] * 11, None)


def test_the_table_sums_over_experts():
    columns, rows = summed_over_experts(kept_grid(KEPT, dict.fromkeys(KEPT, 3)))
    assert columns == ["q_proj", "gate_up_proj", "gate.weight"]
    assert rows == {"0": [3, 10, 1], "1": [2, 11, None]}


def test_members_of_a_sequential_are_no_experts():
    kept = {f"blocks.{layer}.{name}": 1 for layer in (0, 1) for name in ("mlp.0", "mlp.2", "3")}
    columns, rows = summed_over_experts(kept_grid(kept, None))
    assert columns == ["3", "mlp.0", "mlp.2"]
    assert rows == {"0": [1, 1, 1], "1": [1, 1, 1]}
    assert kept_grid({"net.0": 1, "net.2": 1}, None).matrices == ("net.0", "net.2")


# BART and T5, whose stacks have the same numbers and matrices of the same names.
STACKS = [
    {
        "model.decoder.layers.0.encoder_attn.q_proj": 4,
        "model.decoder.layers.0.self_attn.q_proj": 1,
        "model.encoder.layers.0.self_attn.q_proj": 8,
        "model.encoder.layers.1.self_attn.q_proj": 2,
    },
    {
        "decoder.block.0.layer.0.SelfAttention.q": 1,
        "decoder.block.0.layer.1.EncDecAttention.q": 4,
        "encoder.block.0.layer.0.SelfAttention.q": 8,
        "encoder.block.1.layer.0.SelfAttention.q": 2,
    },
]


@pytest.mark.parametrize("kept", STACKS)
def test_encoder_and_decoder_have_rows_of_their_own(kept: dict[str, int]) -> None:
    grid = kept_grid(kept, dict.fromkeys(kept, 8))
    assert grid.layers == ("encoder.0", "encoder.1", "decoder.0")
    assert grid.total == 15
    columns, rows = summed_over_experts(grid)
    assert len(columns) == 2
    assert sorted(count for row in rows.values() for count in row if count) == [1, 2, 4, 8]


def test_modules_outside_the_stacks_have_a_row_of_their_own() -> None:
    grid = kept_grid({**STACKS[0], "lm_head": 3}, None)
    assert grid.layers == ("", "encoder.0", "encoder.1", "decoder.0")
    assert grid.total == 18


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init_r": 8}, "15 of 32"),
        ({"init_r": 8, "rank_pattern": {"decoder.*q_proj": 4}}, "15 of 24"),
        # The adapter that it started from had ranks of its own.
        ({"init_r": 8, "start_from": "a/run"}, "15"),
    ],
)
def test_what_is_kept_is_a_share_of_what_each_matrix_started_with(
    options: dict[str, Any], said: str
) -> None:
    assert kept_grid(STACKS[0], initial_ranks(STACKS[0], options)).share_in_words == said
