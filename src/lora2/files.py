"""Writing files so that a reader sees the old content or the new one, never a part."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora2.errors import UserError


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace the content of `path` by `data` (text as UTF-8) in one step.

    If writing fails or is interrupted, the old content stays and no temporary file remains; only a
    killed process can leave one behind, `.<name>.<random>.tmp` beside the target.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    # Not `tempfile`: its files are readable by their owner alone, and the rename would keep that.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            # Without it a power cut after the rename can leave an empty file under the final name.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, value: Any) -> None:
    """Replace the content of `path` by `value` as indented JSON, in one step.

    NaN and infinity, which JSON has no form for, become null.

    Raises:
        TypeError: JSON has no form for a part of `value`; nothing is written.
        OSError: as for `write_atomically`.
    """
    text = json.dumps(nan_as_null(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def nan_as_null(value: Any) -> Any:
    """Return a value of dictionaries, lists and numbers with None for each NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: nan_as_null(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [nan_as_null(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output(path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Check that a command may write its output to the file `path`; nothing is touched.

    Args:
        path: a file that may exist only if it is to be overwritten; or what is no regular file,
            such as a named pipe or /dev/stdout, which is written to as it is.
        overwrite: whether the user has asked to replace an existing file.
        inputs: files that the command reads, none of which is ever overwritten.

    Raises:
        UserError: it may not be written, in a sentence that says why.
    """
    folder = path.parent
    if path.is_dir():
        raise UserError(f"output: {path} is a folder; give a file.")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"output: the folder {folder} {what}; make it first, or give another file.")
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise UserError(
                f"output: {path} is the file that is read ({source}); give another file."
            )
    if _is_written_directly(path):
        return
    target = path.resolve()
    if target.exists() and not overwrite:
        raise UserError(f"output: {path} exists already; add --overwrite, or give another file.")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UserError(f"output: {path} may not be written; change its permissions.")


def write_output(
    path: Path, data: bytes | str, *, overwrite: bool = False, inputs: Iterable[Path] = ()
) -> None:
    """Write the output of a command to `path`, in one step where it is a regular file.

    A symbolic link stays one, and the file that it points to is written.

    Raises:
        UserError: as for `check_output`; the file may have been made since that check.
        OSError: it cannot be written, or the disk is full.
    """
    check_output(path, overwrite=overwrite, inputs=inputs)
    if not _is_written_directly(path):
        write_atomically(path.resolve(), data)
        return
    with path.open("wb") as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def _is_written_directly(path: Path) -> bool:
    # /dev/stdout may be a link to a regular file, into which the shell has redirected the output.
    return path.is_relative_to("/dev") or (path.exists() and not path.is_file())


def check_is_new(path: Path) -> None:
    """Check that a folder may be written at `path`: nothing is there, or an empty folder.

    Raises:
        UserError: something is.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"output: {path} exists already; give another folder.")


def check_may_be_folder(option: str, path: Path) -> None:
    """Check that no file is where a folder is, or is to be made.

    Raises:
        UserError: there is one; `option` is what gave the path.
    """
    found = next((each for each in (path, *path.parents) if each.exists()), path)
    if found.exists() and not found.is_dir():
        raise UserError(f"{option}: {found} is a file; give a folder.")


@contextmanager
def new_folder(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` at the end, or vanishes on an error.

    Args:
        path: where nothing is, or an empty folder.
        replaces: whether a folder with something in it gives way.

    Raises:
        UserError: something has come there meanwhile.
        OSError: it cannot be written, or the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        # A folder cannot be replaced in one step.
        if path.is_dir():
            if not replaces:
                check_is_new(path)
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def flush_to_disk(file: Path) -> None:
    """Wait until a file's content is on disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
