"""Atomic writes: the old content or the new one, and nothing else."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lora2.errors import UserError
from lora2.support.files import (
    check_is_new,
    check_takes_files,
    new_folder,
    write_atomically,
    write_json_atomically,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00\xff\r\n", b"\x00\xff\r\n"),
        ("Λ = 0\n", "Λ = 0\n".encode()),
        (b"", b""),
    ],
)
@pytest.mark.parametrize("existing", [None, b"old"])
def test_content_is_written_or_replaced(
    tmp_path: Path, data: bytes | str, expected: bytes, existing: bytes | None
) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    write_atomically(path, data)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing_call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("existing", [None, b"old"])
def test_failure_midway_leaves_old_content_and_no_temporary_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing_call: str,
    failure: BaseException,
    existing: bytes | None,
) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    temporary_files: list[Path] = []

    def fail(*_: object) -> None:
        temporary_files.extend(tmp_path.glob(".file.*.tmp"))
        raise failure

    monkeypatch.setattr(os, failing_call, fail)
    with pytest.raises(type(failure)):
        write_atomically(path, b"new")

    assert len(temporary_files) == 1, "the content goes to a temporary file in the same folder"
    assert list(tmp_path.iterdir()) == ([] if existing is None else [path])
    assert existing is None or path.read_bytes() == existing


def test_a_folder_that_somebody_has_filled_in_the_meantime_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "export"
    writing = new_folder(path)
    (writing.__enter__() / "file").write_text("ours")
    path.mkdir()
    (path / "file").write_text("theirs")
    with pytest.raises(UserError, match="exists already"):
        writing.__exit__(None, None, None)
    assert (path / "file").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "old"])
def test_a_new_folder_replaces_an_empty_one_or_one_that_it_may(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "adapter"
    path.mkdir()
    if content is not None:
        (path / content).write_text(content)
    with new_folder(path, replaces=content is not None) as temporary:
        (temporary / "new").write_text("new")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "make"),
    [("mkdir", lambda path: new_folder(path).__enter__()), ("touch", check_is_new)],
    ids=["a folder", "a probe"],
)
def test_an_interrupt_leaves_nothing_wherever_it_comes(
    name: str, make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a call that has made something."""
    call, interrupts = getattr(Path, name), [KeyboardInterrupt]

    def interrupted(path: Path, *arguments: object, **named: object) -> object:
        result = call(path, *arguments, **named)
        if path.name.endswith(".tmp") and interrupts:
            raise interrupts.pop()
        return result

    monkeypatch.setattr(Path, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "export")
    assert not list(tmp_path.iterdir())


def test_the_root_is_a_folder_that_exists() -> None:
    with pytest.raises(UserError, match=r"^output: / exists already; give another folder"):
        check_is_new(Path("/"))


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    """Root may write anywhere by its permissions, but /proc takes no file."""
    assert check_takes_files("records", tmp_path / "a" / "b") is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        UserError, match=r"^records: nothing can be written into /proc .*give anoth"
    ):
        check_takes_files("records", Path("/proc/a/b"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    for name, fault in {"loop": "loop", "dangling": "a link to nothing", "x" * 300: "long"}.items():
        with pytest.raises(UserError, match=f"^records: .*{fault}.*give another folder"):
            check_takes_files("records", tmp_path / name)


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"new")


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_new_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    ordinary, written = tmp_path / "ordinary", tmp_path / "written"
    ordinary.write_bytes(b"")
    write_atomically(written, b"")
    assert written.stat().st_mode == ordinary.stat().st_mode


def test_json_is_readable_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json_atomically(path, {"name": "Λ", "kept": [1, 2]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Λ", "kept": [1, 2]}
    assert "Λ" in text
    assert text.endswith("}\n")


def test_value_without_json_form_leaves_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(TypeError):
        write_json_atomically(path, {"kept": {1, 2}})
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
