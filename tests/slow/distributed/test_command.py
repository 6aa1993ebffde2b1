"""`torchrun -m lora2_cli train`: what two processes print, write, and end with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import save_tiny_model, small_options

pytestmark = pytest.mark.slow

# Half of the rows of a step for each of two processes.
SMALL = ("--per_device_train_batch_size=4", "--save_strategy=steps", "--save_steps=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without dropout, whose random numbers depend on the number of processes."""
    return save_tiny_model(tmp_path_factory.mktemp("model"), dropout=0.0)


def launched(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
    """`torchrun -m lora2_cli train`, with each process's output."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
            "-m", "lora2_cli", "train", *map(str, words),
        ],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    options = small_options(save_total_limit=8)
    done = launched(2, "--model", model, "--output_dir", folder, *options, *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


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
