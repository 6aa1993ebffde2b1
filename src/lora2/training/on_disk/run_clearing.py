"""The clearing of a run's folder, and the checks that nothing in it is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

from lora2.support.files import is_temporary, temporary_start
from lora2.training.on_disk.run_folder import RunFolder


def is_bare(folder: RunFolder) -> bool:
    """Whether a folder holds only what a run leaves that was never started."""
    return not any(folder.checkpoints.glob("*")) and all(
        entry == folder.lock_file or (entry == folder.checkpoints and entry.is_dir())
        for entry in folder.path.iterdir()
    )


def is_rest_of_run(folder: RunFolder) -> bool:
    """Whether a run was being cleared, or started, when its process ended."""
    entries = set(folder.path.iterdir())
    others = {entry for entry in entries - {*folder.entries} if not is_temporary(entry)}
    return not folder.is_run and others == {folder.lock_file}


def _has_results(folder: RunFolder) -> bool:
    """Whether a training has left something that another can use or resume from."""
    files = (
        folder.metrics_file,
        folder.log_file,
        folder.baseline_file,
        folder.summary_file,
        folder.divergence_file,
    )
    return any(file.exists() for file in files) or any(folder.checkpoints.glob("*"))


def clear(folder: RunFolder) -> None:
    """Remove what a run has left, and nothing else; the caller must hold the folder."""
    clear_unwritten(folder)
    for entry in folder.entries:
        if entry == folder.checkpoints and entry.is_symlink() and entry.is_dir():
            # The link may lead to a larger disk, to which the next run is to write as well.
            for each in entry.glob("checkpoint-*"):
                _remove(each)
        else:
            _remove(entry)


def clear_without_results(folder: RunFolder) -> None:
    """Remove what a run has left, the lock too, unless there is something to keep."""
    if not _has_results(folder):
        clear(folder)
        folder.lock_file.unlink(missing_ok=True)


def clear_unwritten(folder: RunFolder) -> None:
    """Remove what a killed process of the run has not written to its end.

    The caller must hold the folder. What another command writes into it is left alone.
    """
    own = tuple(temporary_start(entry) for entry in folder.entries)
    for entry in [*folder.path.iterdir()] if folder.path.is_dir() else ():
        if is_temporary(entry) and entry.name.startswith(own):
            _remove(entry)


def _remove(entry: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, of which the target stays."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
