"""Fixtures of the command line's tests."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from command_line import interrupt_at, lora2, save_tiny_model, small_options, train
from language_model import save_language_model


def pytest_collection_finish() -> None:
    """Keep what was imported out of every garbage collection: each training asks for a full one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_training_collects_all_garbage() -> Iterator[None]:
    """accelerate does so at the start of each, to free an accelerator's memory: a tenth of a second
    of each of a thousand trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.utils.memory.clear_device_cache", lambda **_: None)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pretrained model."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model."""
    return save_language_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="session")
def finished_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "agreement"
    code = lora2(
        "train", f"--model={tiny_model}", f"--output_dir={folder}", *small_options(baseline="head")
    )
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def interrupted_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run interrupted in step 7, with the checkpoints of steps 5 and 6; do not write into it."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(6, patch)
        assert train(tiny_model, folder, save_strategy="steps", save_steps=1) == 130
    return folder


@pytest.fixture(autouse=True)
def _the_heap_of_the_tests_stays_as_it_is(monkeypatch):
    """Commands tell the C library to keep memory; here other tests measure what is given back."""
    monkeypatch.setattr("lora2.support.heap._mallopt", lambda: None)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
