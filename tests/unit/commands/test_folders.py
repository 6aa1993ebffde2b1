"""`lora2 train` into a folder that holds something, or that another process writes into."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from command_line import lora2, refused, small_options, train
from lora2.training.on_disk.records import read_lines
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_lock import held
from lora2.training.on_disk.run_start import write_start
from lora2.training.prepare import prepare

pytestmark = pytest.mark.slow


def test_existing_run_is_not_touched(tiny_model, finished_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    command = ("train", f"--model={tiny_model}", f"--output_dir={finished_run}", *small_options())
    assert "--overwrite" in refused(capsys, *command)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_run_of_another_process_is_not_touched(how, tiny_model, interrupted_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    start = ("train", f"--output_dir={folder}", f"--{how}")
    options = [f"--model={tiny_model}", *small_options()] if how == "overwrite" else []
    with held(RunFolder(folder)):
        before = contents(folder)
        assert "another process is training into" in refused(capsys, *start, *options)
        assert contents(folder) == before
    assert lora2(*start, *options) == 0


@pytest.mark.parametrize("how", ["start", "resume"])
def test_run_that_another_process_finishes_in_the_meantime_is_not_touched(
    how, tiny_model, finished_run, interrupted_run, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    if how == "resume":
        shutil.copytree(interrupted_run, folder)
    options = ["--resume"] if how == "resume" else [f"--model={tiny_model}", *small_options()]

    def slowly(settings):
        prepared = prepare(settings)
        shutil.copytree(finished_run, folder, dirs_exist_ok=True)
        return prepared

    monkeypatch.setattr("lora2.commands.train.prepare", slowly)
    said = refused(capsys, "train", f"--output_dir={folder}", *options)
    assert "finished" in said
    theirs, ours = contents(finished_run), contents(folder)
    assert {folder / path.relative_to(finished_run): theirs[path] for path in theirs}.items() <= (
        ours.items()
    )


def test_a_run_that_another_process_has_just_begun_is_not_touched(
    tiny_model, tmp_path, monkeypatch, capsys
):
    """Both started when nothing was there, and the other has neither logged nor saved yet."""
    folder = RunFolder(tmp_path / "run")
    options = [f"--model={tiny_model}", f"--output_dir={folder.path}", *small_options()]
    with ExitStack() as other:

        def slowly(settings):
            prepared = prepare(settings)
            other.enter_context(held(folder))
            write_start(folder, {"k": 2}, {"kind": "texts"})
            return prepared

        monkeypatch.setattr("lora2.commands.train.prepare", slowly)
        # Without --overwrite the other's config is seen before its lock.
        said = refused(capsys, "train", *options, "--overwrite")
        assert "another process is training into" in said
        assert contents(folder.path).keys() >= {folder.config_file, folder.task_file}


def test_folder_that_was_only_held_counts_as_empty(tiny_model, tmp_path):
    with held(RunFolder(tmp_path / "run")):
        pass
    options = [f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}", *small_options()]
    assert lora2("train", *options) == 0


def test_foreign_folder_is_not_touched_even_with_overwrite(tiny_model, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("important")
    command = ("train", f"--model={tiny_model}", f"--output_dir={tmp_path}", *small_options())
    assert "no run of lora2" in refused(capsys, *command, "--overwrite")
    assert (tmp_path / "thesis.tex").read_text() == "important"


@pytest.mark.parametrize("ends_in", ["clearing", "starting"])
def test_a_run_that_was_being_replaced_when_its_process_ended_is_replaced(
    ends_in, tiny_model, finished_run, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)

    def remove_files(entry):
        if entry.is_dir():
            raise KeyboardInterrupt
        entry.unlink(missing_ok=True)

    def write_half(file, content):
        file.with_name(f".{file.name}.{'0' * 16}.tmp").write_bytes(content[:9])
        raise KeyboardInterrupt

    steps = {
        "clearing": ("run_clearing._remove", remove_files),
        "starting": ("run_start.write_atomically", write_half),
    }
    name, ended = steps[ends_in]
    with monkeypatch.context() as patch:
        patch.setattr(f"lora2.training.on_disk.{name}", ended)
        assert train(tiny_model, folder, "--overwrite") == 130
    command = ("train", f"--model={tiny_model}", f"--output_dir={folder}", *small_options())
    assert "a run that was removed in part; add --overwrite" in refused(capsys, *command)
    assert train(tiny_model, folder, "--overwrite", num_train_epochs=1, tfinal=1) == 0
    assert not list(folder.glob(".*.tmp"))


def test_overwrite_replaces_the_run(tiny_model, finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    assert train(tiny_model, folder, "--overwrite", num_train_epochs=1, tfinal=1) == 0
    assert [record["step"] for record in read_lines(folder / "metrics.jsonl")] == [4]
    # The baseline of the old run went with it.
    assert not (folder / "baseline.json").exists()


def test_bad_input_leaves_the_run_that_overwrite_would_replace(finished_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    command = ("train", f"--output_dir={folder}", "--overwrite", f"--model={tmp_path / 'none'}")
    refused(capsys, *command)
    assert (folder / "summary.json").is_file()
