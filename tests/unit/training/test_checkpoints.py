"""Checkpoints of every engine are known as complete, and as cut short."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora2.training.on_disk.checkpoints import newest_complete

# Files of a checkpoint by engine, in the order of writing; of those that end in a slash, a folder
# with parts.
ENGINES = {
    "one process": ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"],
    "DistributedDataParallel": [
        "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth",
        "rng_state_1.pth",
    ],
    "FSDP, whole": [
        "adapter_model.safetensors", "pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt",
        "rng_state_0.pth",
    ],
    "FSDP, in parts": [
        "pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata",
        "optimizer_0/__0_0.distcp", "optimizer_0/.metadata", "scheduler.pt", "rng_state_0.pth",
    ],
    "DeepSpeed": [
        "adapter_model.safetensors", "global_step3/rank_0_optim_states.pt", "latest",
        "scheduler.pt", "rng_state_0.pth",
    ],
    "DeepSpeed with its own scheduler": [
        "adapter_model.safetensors", "global_step3/rank_0_optim_states.pt", "latest",
        "rng_state_0.pth",
    ],
}  # fmt: skip
# What DeepSpeed's other files stand in for, or a run can go on without.
_OPTIONAL = {
    "FSDP, whole": {"pytorch_model_fsdp.bin"},
    "FSDP, in parts": {"pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"},
    "DeepSpeed": {"scheduler.pt"},
}


def write(checkpoint: Path, names: list[str]) -> None:
    for name in names:
        path = checkpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({"x": torch.zeros(1)}, path)
        elif path.name in ("latest", ".metadata"):
            path.write_text("global_step3")
        else:
            torch.save({"x": torch.zeros(1)}, path)
    state = {"global_step": 3, "log_history": []}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoint_is_complete_with_the_files_of_its_engine(engine: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    write(checkpoint, ENGINES[engine])

    assert newest_complete(tmp_path) == (checkpoint, [])


@pytest.mark.parametrize(
    ("engine", "missing"),
    [
        (engine, name)
        for engine, names in ENGINES.items()
        for name in names
        if name not in _OPTIONAL.get(engine, ()) and not name.startswith("rng_state_")
    ],
)
def test_checkpoint_without_one_of_them_is_not(engine: str, missing: str, tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-3", [name for name in ENGINES[engine] if name != missing])

    found, faults = newest_complete(tmp_path)

    assert found is None
    assert len(faults) == 1
    assert "checkpoint-3 was cut short" in faults[0]


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "x"},
        {"max_steps": None},
        {"train_batch_size": "x"},
        {"log_history": [{"step": 1, "eval_loss": 10**400}]},
    ],
)
def test_a_state_that_the_trainer_cannot_take_is_damaged(
    change: dict[str, object], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    write(checkpoint, ENGINES["one process"])
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    found, (fault,) = newest_complete(tmp_path)

    assert found is None
    assert "trainer_state.json" in fault


def test_a_name_of_a_folder_that_is_no_text_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-3", ENGINES["DeepSpeed"])
    (tmp_path / "checkpoint-3" / "latest").write_bytes(b"\xff\xfe")

    assert newest_complete(tmp_path)[0] is None


def test_a_state_of_another_version_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-3", ENGINES["one process"])
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more_than_known": 1}))

    found, (fault,) = newest_complete(tmp_path)

    assert found is None
    assert "checkpoint-3 is of another version of transformers" in fault
    assert "'more_than_known'" in fault
