"""Writing files so that a reader sees the old content or the new one, never a part."""

import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora2.errors import UserError

# Names of what a process has open already, such as the standard output that a shell redirects.
_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")
_STANDARD = {"stdout": 1, "stderr": 2}


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace the content of `path` by `data` (text as UTF-8) in one step.

    If writing fails or is interrupted, the old content stays and no temporary file remains; only a
    killed process can leave one, `.<name>.<random>.tmp` next to the target.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    # Files of `tempfile` are readable by their owner alone, and the rename would keep that.
    temporary = _temporary(path)
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
    write_atomically(path, as_json(value))


def as_json(value: Any) -> str:
    """Return a value as indented JSON, with null for NaN and infinity.

    Raises:
        TypeError: JSON has no form for a part of `value`.
    """
    return json.dumps(nan_as_null(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def nan_as_null(value: Any) -> Any:
    """Return a value of dictionaries, lists and numbers with None for each NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): nan_as_null(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [nan_as_null(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_output(path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Check that a command may write its output to the file `path`, and leave all as it is.

    Args:
        path: a file that may exist only if it is to be overwritten; or a named pipe, a device, or
            an open descriptor such as /dev/stdout, which are written to as they are.
        overwrite: whether the user has asked to replace an existing file.
        inputs: files that the command reads, and folders of such; none is ever overwritten.

    Raises:
        UserError: it may not be written, in a sentence that says why.
    """
    try:
        descriptor = _descriptor(path)
        state = _state(path) if descriptor is None else _state_to_write(descriptor)
        target = path.resolve()
    # RuntimeError is a loop of symbolic links, ValueError a NUL in the name, OverflowError a number
    # that no descriptor has.
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"output: {path} cannot be written ({reason}); give another file."
        ) from error
    if state is not None:
        _check_is_no_input(path, state, inputs)
        if stat.S_ISDIR(state.st_mode):
            raise UserError(f"output: {path} is a folder; give a file.")
        if stat.S_ISSOCK(state.st_mode):
            raise UserError(f"output: {path} is a socket; give a file.")
    if descriptor is not None:
        return
    if state is not None:
        if _holds_data(state) and not overwrite:
            raise UserError(
                f"output: {path} exists already; add --overwrite, or give another file."
            )
        if not os.access(path, os.W_OK):
            raise UserError(f"output: {path} is read-only; give another file.")
    if state is None or stat.S_ISREG(state.st_mode):
        if not target.parent.is_dir():
            what = "is a file" if target.parent.exists() else "does not exist"
            raise UserError(
                f"output: the folder {target.parent} {what}; make it first, or give another file."
            )
        _check_can_make(path, target.parent)


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
    content = data.encode("utf-8") if isinstance(data, str) else data
    if is_regular(path):
        write_atomically(path.resolve(), content)
        return
    descriptor = _descriptor(path)
    if descriptor is None:
        with path.open("wb") as file:
            file.write(content)
        return
    for stream in (sys.stdout, sys.stderr):
        # A stream that is closed is None.
        if stream is not None:
            stream.flush()
    # Opening it by its name would cut off a file that the shell appends to (`>>`).
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file or will be one: no pipe, no device, no open descriptor."""
    if _descriptor(path) is not None:
        return False
    state = _state(path)
    return state is None or stat.S_ISREG(state.st_mode)


def _descriptor(path: Path) -> int | None:
    """Return the number of an open descriptor that `path` names, if it names one."""
    found = _DESCRIPTOR.fullmatch(str(path))
    return None if found is None else _STANDARD.get(found[1]) or int(found[2])


def _state(path: Path) -> os.stat_result | None:
    """Return the status of what a path leads to, through links; None if nothing is there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _state_to_write(descriptor: int) -> os.stat_result:
    """Return the status of an open file.

    Raises:
        OSError: it is not open, or only for reading.
    """
    # A descriptor for reading refuses this, and one for writing takes no byte.
    os.write(descriptor, b"")
    return os.fstat(descriptor)


def _holds_data(state: os.stat_result) -> bool:
    return stat.S_ISREG(state.st_mode) or stat.S_ISBLK(state.st_mode)


def _check_is_no_input(path: Path, state: os.stat_result, inputs: Iterable[Path]) -> None:
    for source in inputs:
        try:
            is_source = os.path.samestat(state, source.stat())
        except OSError:
            continue
        if is_source or source.resolve() == path.resolve().parent:
            what = "the file that is read" if source.is_file() else "a file that is read"
            raise UserError(f"output: {path} is {what} ({source}); give another file.")


def _check_can_make(path: Path, folder: Path) -> None:
    """Check that something of the name of `path` can be made in a folder, by making it once.

    Permissions alone do not say it: a file system may be read-only, and root may do anything.

    Raises:
        UserError: it cannot.
    """
    probe = _temporary(folder / path.name)
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output: {path} cannot be made in {folder} ({error.strerror}); change the "
            "permissions of that folder, or give another."
        ) from error


def _temporary(path: Path) -> Path:
    """Return a new name next to `path`, which is no longer than a file system allows."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


def check_is_new(path: Path, what: str = "folder") -> None:
    """Check that `path` can be made: nothing is there, or an empty folder, and its parents may be.

    what: that is to be made there.

    Raises:
        UserError: something is there, or nothing can be made there.
    """
    try:
        is_new = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        nearest = next(parent for parent in path.resolve().parents if parent.exists())
    # RuntimeError is a loop of symbolic links, ValueError a NUL in the name.
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"output: {path} cannot be made ({reason}); give another {what}."
        ) from error
    if not is_new:
        raise UserError(f"output: {path} exists already; give another {what}.")
    # What is written appears in one step, in the place of an empty folder.
    if path.is_dir() and (os.path.ismount(path) or path.samefile(Path.cwd())):
        kind = "a mount point" if os.path.ismount(path) else "the folder that the command runs in"
        raise UserError(
            f"output: {path} is {kind}, which no finished {what} can replace; give one in it."
        )
    if not nearest.is_dir():
        raise UserError(
            f"output: {nearest} is a file, so {path} cannot be made; give another {what}."
        )
    _check_can_make(path, nearest)


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
        UserError: something was put there in the meantime.
        OSError: it cannot be written, or the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
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
