"""Two processes under DeepSpeed ZeRO on a CPU: same kept set, same adapter as one process."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from command_line import save_tiny_model, small_options
from forked_commands import ForkedCommands
from lora2.support.checked_files import read_json

sys.path.insert(0, str(Path(__file__).parents[1] / "slow" / "distributed"))
import engine_table
from engine_table import ZERO, Row
from launched_command import SMALL, launched, weights

DEEPSPEED_ON_CPU = Path(engine_table.__file__).parent / "deepspeed_on_cpu.py"

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, forked: ForkedCommands) -> Path:
    """The folder in which all trainings are."""
    path = tmp_path_factory.mktemp("zero")
    engine_table.run_zero(path, forked)
    return path


def test_every_stage_ends_as_one_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = engine_table.table_of_zero(folder)
    with capsys.disabled():
        print("\n" + engine_table.as_text(rows))
    for case in ZERO:
        assert rows[case] == Row(*["yes"] * 6, *["not run"] * 2), case


@pytest.mark.parametrize("stage", [2, 3])
def test_run_of_the_command_ends_as_one_process_and_is_resumed_bit_for_bit(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    model = save_tiny_model(tmp_path / "model", dropout=0.0)
    settings = {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    (tmp_path / "zero.json").write_text(json.dumps(settings))
    # Every step is clipped.
    clipped = "--max_grad_norm=0.01"
    options = [*small_options(save_total_limit=8), *SMALL, "--use_cpu=True", clipped]
    where = "--model", model, "--output_dir"
    program = (str(DEEPSPEED_ON_CPU),)
    folder = tmp_path / "zero"
    words = [*where, folder, *options, "--deepspeed", tmp_path / "zero.json"]
    done = launched(2, *words, program=program)
    assert done.returncode == 0, done.stderr[-3000:]
    one = tmp_path / "one"
    accumulated = launched(1, *where, one, *options, "--gradient_accumulation_steps=2")
    assert accumulated.returncode == 0, accumulated.stderr[-3000:]
    expected, ended = weights(one), weights(folder)
    for name, tensor in ended.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    assert (
        read_json(folder / "summary.json", "")["final_parameters"]
        == (read_json(one / "summary.json", "")["final_parameters"])
    )
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    for step in range(5, 9):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")

    again = launched(2, "--output_dir", folder, "--resume", program=program)

    assert again.returncode == 0, again.stderr[-3000:]
    assert all(torch.equal(tensor, ended[name]) for name, tensor in weights(folder).items())
