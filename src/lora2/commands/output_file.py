"""The file that a command writes to: it is checked before any work, and written in one step."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from lora2.errors import UserError
from lora2.support.files import check_can_make, write_atomically

# Names of what a process has open already, such as the standard output that a shell redirects.
_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")
_STANDARD = {"stdout": 1, "stderr": 2}


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
        check_can_make(path, target.parent)


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
