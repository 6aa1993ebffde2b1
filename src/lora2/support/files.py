"""Writing files so that a reader sees the old content or the new one, never a part."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
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

    Raises:
        TypeError: JSON has no form for a part of `value`; nothing is written.
        OSError: as for `write_atomically`.
    """
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_is_new(path: Path) -> None:
    """Check that a folder may be written at `path`: nothing is there, or an empty folder.

    Raises:
        UserError: something is.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"output: {path} exists already; give another folder.")


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
