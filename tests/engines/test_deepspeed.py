"""Two processes under DeepSpeed ZeRO on a CPU: same kept set, same adapter as one process."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from command_line import refused, save_tiny_model, saved_weights, small_options
from forked_commands import ForkedCommands
from language_model import save_language_model, text_options
from lora2.support.checked_files import read_json

sys.path.insert(0, str(Path(__file__).parents[1] / "slow" / "distributed"))
import engine_table
from engine_table import ZERO, Row
from launched_command import SMALL, launched

DEEPSPEED_ON_CPU = Path(engine_table.__file__).parent / "deepspeed_on_cpu.py"
NAN_GRADIENT = DEEPSPEED_ON_CPU.with_name("nan_gradient_on_cpu.py")

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


def write_settings(folder: Path, stage: int) -> Path:
    """Write DeepSpeed's file, and return its path."""
    settings = {
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    path = folder / "zero.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("stage", [2, 3])
def test_run_of_the_command_ends_as_one_process_and_is_resumed_bit_for_bit(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    model = save_tiny_model(tmp_path / "model", dropout=0.0)
    settings = write_settings(tmp_path, stage)
    # Every step is clipped, some more than others, so that gradients which the allocator sees
    # unclipped have another kept set.
    clipped = {"max_grad_norm": 0.02, "k": 4, "init_r": 8, "tinit": 0, "tfinal": 1}
    longer = {"num_train_epochs": 3, "learning_rate": 0.02, "save_total_limit": 12}
    options = [*small_options(**clipped, **longer), *SMALL, "--use_cpu=True"]
    where = "--model", model, "--output_dir"
    program = (str(DEEPSPEED_ON_CPU),)
    folder = tmp_path / "zero"
    words = [*where, folder, *options, "--deepspeed", settings]
    done = launched(2, *words, program=program)
    assert done.returncode == 0, done.stderr[-3000:]
    one = tmp_path / "one"
    accumulated = launched(1, *where, one, *options, "--gradient_accumulation_steps=2")
    assert accumulated.returncode == 0, accumulated.stderr[-3000:]
    expected, ended = saved_weights(one), saved_weights(folder)
    for name, tensor in ended.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    assert (
        read_json(folder / "summary.json", "")["final_parameters"]
        == (read_json(one / "summary.json", "")["final_parameters"])
    )
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    for step in range(5, 13):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")

    again = launched(2, "--output_dir", folder, "--resume", program=program)

    assert again.returncode == 0, again.stderr[-3000:]
    assert all(torch.equal(tensor, ended[name]) for name, tensor in saved_weights(folder).items())


# PEFT's methods compute a step of made-up rows first, where the weights are whole.
@pytest.mark.parametrize(("stage", "method"), [(2, "lora2"), (3, "lora2"), (3, "rslora")])
def test_texts_are_learned_as_in_one_process(
    stage: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    model = save_language_model(tmp_path / "model")
    options = [*text_options(method=method), "--use_cpu=True"]
    words = ["--objective=sft", "--model", model, *options, "--output_dir"]
    sharded = ["--per_device_train_batch_size=4", "--deepspeed", write_settings(tmp_path, stage)]
    done = launched(2, *words, tmp_path / "zero", *sharded, program=(str(DEEPSPEED_ON_CPU),))
    assert done.returncode == 0, done.stderr[-3000:]
    one = launched(1, *words, tmp_path / "one", "--per_device_train_batch_size=8")
    assert one.returncode == 0, one.stderr[-3000:]
    expected, ended = saved_weights(tmp_path / "one"), saved_weights(tmp_path / "zero")
    assert ended.keys() == expected.keys()
    for name, tensor in ended.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora2", "lora"])
@pytest.mark.parametrize("stage", [2, 3])
def test_a_nan_gradient_of_one_process_stops_all(
    stage: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed leaves such a step out, and the next as well, without a word."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    model = save_tiny_model(tmp_path / "model")
    words = [*small_options(method=method), *SMALL, "--use_cpu=True", "--model", model]
    where = ["--output_dir", tmp_path / "run", "--deepspeed", write_settings(tmp_path, stage)]
    done = launched(2, *words, *where, program=(str(NAN_GRADIENT),))
    assert done.returncode != 0
    assert done.stderr.count("lora2: NaN or infinity in ") == 1, done.stderr[-3000:]
    error = read_json(tmp_path / "run" / "diverged.json", "")["error"]
    assert error.startswith("NaN or infinity in ")
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("--method=sora", "SoRA cannot be trained where tensors are split over processes"),
        ("--method=adalora", "AdaLoRA cannot be trained where tensors are split"),
        ("--method=adamss", "cannot be trained where tensors are split"),
        ("--init_weights=gradient", "the start from gradients is not made where tensors are split"),
    ],
)
def test_what_needs_whole_tensors_is_refused(
    option: str,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = write_settings(tmp_path, 2)
    words = ("train", option, "--output_dir", tmp_path / "run")
    assert fault in refused(capsys, *words, f"--deepspeed={settings}")
    # As `accelerate launch --use_fsdp` sets it.
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    said = refused(capsys, *words)
    assert fault in said
    assert "ACCELERATE_USE_FSDP" in said
    assert not (tmp_path / "run").exists()
