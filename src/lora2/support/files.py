"""Writing files so that a reader sees the old content or the new one, never a part."""

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora2.errors import UserError
from lora2.support.extras import require


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace the content of `path` by `data` (text as UTF-8) in one step.

    If writing fails or is interrupted, the old content stays and no temporary file remains; only a
    killed process can leave one, `.<name>.<random>.tmp` next to the target.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file that becomes `path` at the end, or vanishes on an error.

    Raises:
        OSError: as for `write_atomically`.
    """
    # Files of `tempfile` are readable by their owner alone, and the rename would keep that.
    temporary = _temporary(path)
    try:
        yield temporary
        # Without it a power cut after the rename can leave an empty file under the final name.
        flush_to_disk(temporary)
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


def as_yaml(options: dict[str, Any]) -> str:
    """Return options as YAML in their own order."""
    yaml = require("yaml", extra="train")
    text: str = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return text


def nan_as_null(value: Any) -> Any:
    """Return a value of dictionaries, lists and numbers with None for each NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): nan_as_null(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [nan_as_null(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_can_make(path: Path, folder: Path, name: str = "output") -> None:
    """Check that something of the name of `path` can be made in a folder, by making it once.

    Permissions alone do not say it: a file system may be read-only, and root may do anything.

    name: of the argument or option that gave the path.

    Raises:
        UserError: it cannot.
    """
    try:
        _try_to_make(folder / path.name)
    except OSError as error:
        raise UserError(
            f"{name}: {path} cannot be made in {folder} ({error.strerror}); change the "
            "permissions of that folder, or give another."
        ) from error


def _try_to_make(path: Path) -> None:
    """Make a file next to `path`, of a name that is as long, and remove it.

    Raises:
        OSError: it cannot be made.
    """
    probe = _temporary(path)
    try:
        probe.touch(exist_ok=False)
    finally:
        # An interrupt may come at any time.
        probe.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Return whether a path has the name of what a killed process has not written to its end."""
    return re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name) is not None


def _temporary(path: Path) -> Path:
    """Return a new name next to `path`, which is no longer than a file system allows."""
    return path.with_name(f"{temporary_start(path)}{secrets.token_hex(8)}.tmp")


def temporary_start(path: Path) -> str:
    """Return how the names begin under which something is written before it becomes `path`."""
    return f".{path.name[:40]}."


def as_path(path: Any) -> Path:
    """Return what the argument `path` of a function gives as a path.

    Raises:
        UserError: it is neither a text nor a path.
    """
    if isinstance(path, str | os.PathLike):
        given = os.fspath(path)
        if isinstance(given, str):
            return Path(given)
    raise UserError(f"path={path!r} is a {type(path).__name__}; give a text or a pathlib.Path.")


def check_is_new(path: Path, what: str = "folder", *, name: str = "output") -> None:
    """Check that `path` can be made: nothing is there, and its parents are there or can be made.

    what: "folder", which may be there if it is empty, or "file".
    name: of the argument that gave the path; "output" is the option of the commands.

    Raises:
        UserError: something is there, or nothing can be made there.
    """
    try:
        is_new = not path.exists() or (what == "folder" and _is_empty_folder(path))
        # The root has no parents.
        nearest = next((each for each in path.resolve().parents if each.exists()), path)
    # RuntimeError is a loop of symbolic links, ValueError a NUL in the name.
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{name}: {path} cannot be made ({reason}); give another {what}."
        ) from error
    if not is_new:
        raise UserError(f"{name}: {path} exists already; give another {what}.")
    # What is written appears in one step, in the place of an empty folder.
    if path.is_dir() and (os.path.ismount(path) or path.samefile(Path.cwd())):
        kind = "a mount point" if os.path.ismount(path) else "the folder that the command runs in"
        raise UserError(
            f"{name}: {path} is {kind}, which no finished {what} can replace; give one in it."
        )
    if not nearest.is_dir():
        raise UserError(
            f"{name}: {nearest} is a file, so {path} cannot be made; give another {what}."
        )
    check_can_make(path, nearest, name)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def check_may_be_folder(option: str, given: Path | str | None) -> None:
    """Check that no file is where a folder is, or is to be made; None gives no folder.

    Raises:
        UserError: there is one, or the path is empty; `option` is what gave it.
    """
    if given is None:
        return
    # A variable of a shell may be empty.
    if given == "":
        raise UserError(f"{option} is an empty text; write the path of a folder, or leave it out.")
    path = Path(given)
    found = next((each for each in (path, *path.parents) if each.exists()), path)
    if found.exists() and not found.is_dir():
        raise UserError(f"{option}: {found} is a file; give a folder.")


def check_takes_files(option: str, folder: Path) -> None:
    """Check that files can be written into a folder, which may not be there yet.

    Raises:
        UserError: they cannot; `option` is what gave the folder.
    """
    nearest = folder
    try:
        check_may_be_folder(option, folder)
        path = folder.resolve()
        if folder.is_symlink() and not path.exists():
            raise UserError(
                f"{option}: {folder} is a link to nothing; remove it, or give another folder."
            )
        nearest = next(each for each in (path, *path.parents) if each.exists())
        _try_to_make(nearest / "file")
    # RuntimeError is a loop of symbolic links.
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{option}: nothing can be written into {nearest} ({reason}); change its permissions, "
            "or give another folder."
        ) from error


@contextmanager
def new_folder(path: Path, *, replaces: bool = False, name: str = "output") -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` at the end, or vanishes on an error.

    Args:
        path: where nothing is, or an empty folder.
        replaces: whether a folder with something in it gives way.
        name: of the argument that gave the path.

    Raises:
        UserError: something was put there in the meantime.
        OSError: it cannot be written, or the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        # A folder cannot be replaced in one step.
        if path.is_dir():
            if not replaces:
                check_is_new(path, name=name)
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
