"""Standard output that is not UTF-8, not read, or on a full disk; sentences for errors."""

import errno
import io
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from command_line import lora2
from lora2.commands.error_sentences import as_sentence
from lora2.commands.output_file import write_output
from lora2.errors import NumericalError
from lora2_cli.main import NOT_READ

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", [("--help",), ("train", "--help"), ("inspect", "RUN")], ids=str)
def test_what_an_encoding_lacks_is_replaced(encoding, command, finished_run, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit) if command[0] == "train" else nullcontext():
        assert lora2(*(finished_run if word == "RUN" else word for word in command)) == 0
    output.flush()
    text = output.buffer.getvalue().decode(encoding)
    assert "LoRA" in text
    assert ("²" in text) == (encoding != "ascii")
    assert output.errors == "strict"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_lines_keep_text_that_an_encoding_lacks(encoding, finished_run, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    text = "the café — 🌱 λ"
    assert lora2("predict", finished_run, "--text", text) == 0
    output.flush()
    (line,) = output.buffer.getvalue().decode(encoding).splitlines()
    assert text in json.loads(line).values()
    assert (text in line) == (encoding == "utf-8")


def test_a_pipe_that_nobody_reads_ends_quietly(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert lora2("--help") == NOT_READ
        # As Python does at its end.
        pipe.flush()
    assert not capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_standard_output_is_named(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert lora2("--help") == 2
        full.flush()
    said = capsys.readouterr().err
    assert said.startswith("lora2: The disk is full")
    assert said.count("\n") == 1


TOO_LARGE = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "command", "said", "not_said"),
    [
        (FULL, "train", "--resume", "ulimit"),
        (FULL, "export", "run the same again", "--resume"),
        (TOO_LARGE, "export", "ulimit -f", "--resume"),
        (SafetensorError("I/O error: File too large (os error 27)"), "train", "ulimit", "damaged"),
        (SafetensorError("I/O error: No space left on device"), "export", "disk is full", "damage"),
        (RuntimeError("PytorchStreamWriter failed writing file"), "train", "ulimit", "damaged"),
        (
            RuntimeError("[enforce fail] . unexpected pos 38799 vs 38752"),
            "train",
            "disk",
            "damaged",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "train", "config.yaml", "damaged"),
        (OSError(21, "Is a directory", ".log.tmp", None, "log"), "train", "log: Is a d", ".tmp"),
        (MemoryError(), "predict", "--batch_size", "per_device"),
        (MemoryError(), "train", "--per_device_train_batch_size", "--batch_size"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "evaluate",
            "--batch_size",
            "DefaultCPU",
        ),
        (NumericalError("NaN in a layer."), "predict", "NaN in a layer.", "resume"),
    ],
    ids=str,
)
def test_an_error_of_the_machine_says_what_helps_the_command(error, command, said, not_said):
    sentence = as_sentence(error, command)
    assert sentence is not None
    assert said in sentence
    assert not_said not in sentence


def test_parameters_without_a_gradient_are_told_with_the_option_that_allows_them(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 's'}", rank=0, world_size=1)
    try:
        model = nn.Module()
        model.used, model.unused = nn.Linear(1, 1), nn.Linear(1, 1)
        model.forward = model.used.forward
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(torch.ones(1, 1)).sum().backward()
        with pytest.raises(RuntimeError) as raised:
            parallel(torch.ones(1, 1))
    finally:
        torch.distributed.destroy_process_group()
    sentence = as_sentence(raised.value, "train")
    assert sentence is not None
    assert "--ddp_find_unused_parameters true" in sentence


def test_an_error_of_ours_has_no_sentence():
    assert as_sentence(ZeroDivisionError("division by zero")) is None


def test_an_output_is_written_where_standard_streams_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with (tmp_path / "out.txt").open("w") as file:
        write_output(Path(f"/dev/fd/{file.fileno()}"), "a line\n", overwrite=True)
    assert (tmp_path / "out.txt").read_text() == "a line\n"
