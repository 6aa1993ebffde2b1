"""Keeps a run's folder for one process, which leaves it as it was if nothing comes of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from filelock import FileLock, Timeout

from lora2.errors import UserError
from lora2.training.on_disk.run_clearing import clear_without_results, is_bare
from lora2.training.on_disk.run_folder import RunFolder


class FolderHeldError(UserError):
    """Another process is training into the folder."""


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Keep other processes out of the folder while this one trains into it.

    Raises:
        FolderHeldError: another process holds it.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    # The system releases it when a process ends, however it ends.
    lock = FileLock(folder.lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise FolderHeldError(
            f"output_dir: another process is training into {folder.path}; wait for its end, or "
            "give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def left_as_found(folder: RunFolder) -> Iterator[None]:
    """Remove, on an error, what this process has made here before there is anything to keep.

    A training that failed in its first step leaves no folder that would refuse the next try.
    """
    parents = [folder.path, *folder.path.parents]
    missing = [path for path in parents if not path.exists()]
    was_bare = bool(missing) or (folder.path.is_dir() and is_bare(folder))
    try:
        yield
    except Exception:
        # A file that cannot be removed must not hide the error.
        with suppress(OSError):
            if was_bare and folder.path.is_dir():
                # Another process may train into the folder by now: it holds the lock then, and
                # filelock's Timeout is an OSError.
                with FileLock(folder.lock_file).acquire(blocking=False):
                    clear_without_results(folder)
            for path in missing:
                path.rmdir()
        raise
