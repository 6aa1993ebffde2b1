"""The command line with a pretrained language model, SmolLM2-135M-Instruct; some minutes."""

import json
from pathlib import Path

import pytest

from command_line import lora2
from lora2.training.on_disk.records import read_lines

pytestmark = pytest.mark.engines

# Twenty-five optimizer steps.
SHORT = [
    "--train_rows=200",
    "--validation_rows=20",
    "--exact_match_rows=20",
    "--logging_steps=5",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "rewrite"
    assert lora2("train", "--objective=sft", f"--output_dir={folder}", *SHORT) == 0
    return folder


def test_smollm2_learns_to_rewrite(run):
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["task"], summary["model"], summary["steps"]) == ("rewrite", "smollm2", 25)
    assert summary["before"]["exact_match"] < 0.1
    assert summary["last"]["exact_match"] > 0.3
    # Thirty layers of seven matrices, from eight singular values each to four on average.
    assert sum(summary["kept_singular_values"].values()) == 30 * 7 * 4
    losses = [log["loss"] for log in read_lines(run / "log.jsonl")]
    assert losses[-1] < losses[0] / 4


def test_merged_weights_write_the_same(run, capsys):
    capsys.readouterr()
    written = []
    for more in ([], ["--merged"]):
        assert lora2("generate", run, "--prompt=the third of March, 1998", *more) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1]
    assert written[0].strip()
