"""When a new run may be written into a folder, and how it begins there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora2.errors import UserError
from lora2.support.files import as_json, as_yaml, write_atomically
from lora2.training.on_disk.run_clearing import clear, is_bare, is_rest_of_run
from lora2.training.on_disk.run_folder import RunFolder


def check_may_start(folder: RunFolder, overwrite: bool) -> None:
    """Check that a new run may be written here; nothing is touched.

    Raises:
        UserError: something is here that would be lost.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"output_dir: {folder.path} is a file; give another folder.")
    if folder.path.is_symlink() and not folder.path.exists():
        raise UserError(
            f"output_dir: {folder.path} is a link to nothing; remove it, or give another folder."
        )
    if not folder.path.is_dir() or is_bare(folder):
        return
    is_rest = is_rest_of_run(folder)
    if not folder.is_run and not is_rest:
        raise UserError(
            f"output_dir: {folder.path} holds files that are no run of lora2; give another folder."
        )
    if not overwrite:
        resume = ""
        if is_rest:
            state = "a run that was removed in part"
        elif folder.is_finished:
            state = "a finished run"
        elif folder.has_diverged:
            state = "a run that diverged"
        else:
            state, resume = "an unfinished run", "--resume to resume it, "
        raise UserError(
            f"output_dir: {folder.path} holds {state}; add {resume}--overwrite to replace it, "
            "or give another --output_dir."
        )


def check_keeps(folder: RunFolder, option: str, path: str | Path | None) -> None:
    """Check that a new run, which clears the folder, does not clear what it reads.

    Raises:
        UserError: `path`, which an option gave, is among the files of the run that is here.
    """
    if not path or not Path(path).exists():
        return
    read = Path(path).resolve()
    if any(read.is_relative_to(entry.resolve()) for entry in folder.entries):
        raise UserError(
            f"{option}: {path} is of the run in {folder.path}, which a new run clears; give "
            "another --output_dir, or a copy of it."
        )


def check_is_outside(folder: RunFolder, option: str, path: str | Path | None) -> None:
    """Check that a run is in no folder that is read as data, where its files would be taken for it.

    Raises:
        UserError: `path`, which an option gave, is such a folder.
    """
    if path and Path(path).is_dir() and folder.path.resolve().is_relative_to(Path(path).resolve()):
        raise UserError(
            f"output_dir: {folder.path} is in the folder {path} of {option}, which is read as "
            "data; give another --output_dir, outside of it."
        )


def write_start(folder: RunFolder, options: dict[str, Any], task: dict[str, Any]) -> None:
    """Clear the folder and write what is known before training.

    Args:
        folder: of the run, which the caller must hold.
        options: all options of the run, resolved.
        task: what `lora2 predict` must know of the data.
    """
    # A file that cannot be written is found before anything is removed.
    contents = {
        folder.task_file: as_json(task).encode(),
        # Last: from here on the folder counts as a run.
        folder.config_file: as_yaml(options).encode(),
    }
    clear(folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        write_atomically(file, content)
