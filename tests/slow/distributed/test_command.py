"""`torchrun -m lora2_cli train`: what two processes print, write, and end with."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from command_line import save_tiny_model, small_options

sys.path.insert(0, str(Path(__file__).parent))
from launched_command import SMALL, launched, weights

pytestmark = pytest.mark.slow

FSDP_ON_CPU = Path(__file__).parent / "fsdp_on_cpu.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without dropout, whose random numbers depend on the number of processes."""
    return save_tiny_model(tmp_path_factory.mktemp("model"), dropout=0.0)


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    options = small_options(save_total_limit=8)
    done = launched(2, "--model", model, "--output_dir", folder, *options, *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "find_unused_parameters" not in done.stderr
    return folder, done.stdout


def test_one_process_prints_and_writes(run: tuple[Path, str]) -> None:
    folder, printed = run
    assert printed.count("8 steps of 8 rows") == 1
    assert printed.count(f"Written to {folder}") == 1
    assert printed.count("epoch 2, step 8") == 1
    assert (folder / "summary.json").exists()


def test_a_mistake_is_told_once(run: tuple[Path, str], model: Path) -> None:
    done = launched(2, "--model", model, "--output_dir", run[0], *small_options(), *SMALL)
    assert done.returncode != 0
    assert done.stderr.count("holds a finished run") == 1
    assert "exitcode  : 2 " in done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_is_resumed_by_another_number_of_processes(
    processes: int, run: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(run[0], folder)
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    for step in range(4, 9):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")
    done = launched(processes, "--output_dir", folder, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("gradient_accumulation_steps=2 keeps" in done.stdout) == (processes == 1)
    expected = weights(run[0])
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_fsdp_run_ends_as_one_process_and_is_resumed_bit_for_bit(
    form: str, run: tuple[Path, str], model: Path, tmp_path: Path
) -> None:
    # accelerate 1.15 shards the embeddings of BERT twice unless the layers are named.
    config = {"transformer_layer_cls_to_wrap": ["BertLayer"], "state_dict_type": form}
    (tmp_path / "fsdp.json").write_text(json.dumps(config))
    options = [*small_options(save_total_limit=8), *SMALL, "--use_cpu=True"]
    sharded = ["--fsdp", "--fsdp_config", tmp_path / "fsdp.json"]
    folder = tmp_path / "sharded"
    where = "--model", model, "--output_dir"
    done = launched(2, *where, folder, *options, *sharded, program=(str(FSDP_ON_CPU),))
    assert done.returncode == 0, done.stderr[-3000:]
    expected, ended = weights(run[0]), weights(folder)
    assert ended.keys() == expected.keys()
    for name, tensor in ended.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    for step in range(5, 9):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")

    again = launched(2, "--output_dir", folder, "--resume", program=(str(FSDP_ON_CPU),))

    assert again.returncode == 0, again.stderr[-3000:]
    assert all(torch.equal(tensor, ended[name]) for name, tensor in weights(folder).items())
