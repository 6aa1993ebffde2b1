"""README's picture shows the runs that its caption names."""

import json
from pathlib import Path

import pytest

import front_figure

RECORDS = Path(__file__).parents[3] / "records" / "small"
RUNS_OF_TABLE_1 = (
    "agreement-lora2-s0-34a84d06ecc0",
    "agreement-lora2-s1-b4a49ed5f8af",
    "agreement-lora2-s2-c0b961f13cbf",
)


def test_kept_values_are_those_of_the_three_runs_of_table_1() -> None:
    texts = [(RECORDS / f"{name}.json").read_text(encoding="utf-8") for name in RUNS_OF_TABLE_1]
    records = [json.loads(text)["kept"] for text in texts]
    kept = front_figure.kept_on_agreement(RECORDS)
    for layer, means in zip(kept.layers, kept.counts, strict=True):
        for matrix, mean in zip(kept.matrices, means, strict=True):
            ends = (n for n in records[0] if f"layer.{layer}." in n and n.endswith(matrix))
            name = min(ends, key=len)
            assert mean == pytest.approx(sum(record[name] for record in records) / 3)
    assert sum(map(sum, kept.counts)) == pytest.approx(144)
