"""Kept singular values by layer and matrix, of experts too."""

from lora2.reports.kept import kept_grid, summed_over_experts

KEPT = {
    "model.layers.0.self_attn.q_proj": 3,
    "model.layers.0.mlp.gate.matrices.weight.0": 1,
    **{f"model.layers.0.mlp.experts.matrices.gate_up_proj.{e}": e % 3 for e in range(11)},
    **{f"model.layers.1.mlp.experts.matrices.gate_up_proj.{e}": 1 for e in range(11)},
    "model.layers.1.self_attn.q_proj": 2,
}


def test_each_expert_has_a_column_in_the_order_of_their_numbers():
    grid = kept_grid(KEPT, 3)
    assert grid.layers == ("0", "1")
    assert grid.matrices == (
        "q_proj",
        *(f"gate_up_proj.{expert}" for expert in range(11)),
        "gate.weight",
    )
    assert grid.counts[0] == (3, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 1)
    assert grid.counts[1] == (2, *[1] * 11, None)


def test_the_table_sums_over_experts():
    columns, rows = summed_over_experts(kept_grid(KEPT, 3))
    assert columns == ["q_proj", "gate_up_proj", "gate.weight"]
    assert rows == {"0": [3, 10, 1], "1": [2, 11, None]}
