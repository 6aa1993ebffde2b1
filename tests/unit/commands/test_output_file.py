"""Where a command may write its output: what exists, what is no regular file, what is read."""

import os
import socket
import threading
from pathlib import Path

import pytest

from lora2 import UserError
from lora2.commands.output_file import check_output, write_output
from lora2.support.files import check_is_new


def _folder(path):
    path.mkdir()


def _file(path):
    path.write_text("precious")


def _loop(path):
    path.symlink_to(path)


def _link_to_a_file(path):
    path.with_name("target").write_text("precious")
    path.symlink_to("target")


def _link_to_no_folder(path):
    path.symlink_to("nowhere/target")


REFUSED = {
    "folder": (_folder, "out", "is a folder"),
    "file": (_file, "out", "add --overwrite"),
    "link to a file": (_link_to_a_file, "out", "add --overwrite"),
    "link to no folder": (_link_to_no_folder, "out", "nowhere does not exist"),
    "loop of links": (_loop, "out", "cannot be written"),
    "below a file": (_file, "out/below", "out is a file"),
    "no folder": (lambda path: None, "none/out", "none does not exist"),
    "long name": (lambda path: None, "a" * 300, "cannot be written"),
    "nul": (lambda path: None, "a\0b", "cannot be written"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_output_that_would_lose_something_or_cannot_be_is_refused(case, tmp_path):
    make, name, words = REFUSED[case]
    make(tmp_path / "out")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=words):
        check_output(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("out")
        with pytest.raises(UserError, match="is a socket"):
            check_output(Path("out"))


def test_a_file_that_is_read_only_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "out"
    _file(path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match="is read-only"):
        check_output(path, overwrite=True)


def test_a_folder_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", fail)
    for check in (check_output, check_is_new):
        with pytest.raises(UserError, match="Permission denied"):
            check(tmp_path / "out")


@pytest.mark.parametrize("name", ["file", "link", "hard", "folder/part"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_read_is_never_overwritten(name, overwrite, tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    _file(file)
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    folder.mkdir()
    _file(folder / "part")
    with pytest.raises(UserError, match="that is read"):
        check_output(tmp_path / name, overwrite=overwrite, inputs=[file, folder])
    check_output(folder / "new", inputs=[file, folder])


def test_a_file_of_a_file_system_in_dev_is_a_file(monkeypatch):
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("no file system in memory")
    path = folder / f"lora2-{os.getpid()}"
    try:
        write_output(path, "old")
        with pytest.raises(UserError, match="add --overwrite"):
            write_output(path, "new")
        assert path.read_text() == "old"
    finally:
        path.unlink(missing_ok=True)


def test_an_open_descriptor_is_written_where_it_is(tmp_path):
    path = tmp_path / "log"
    _file(path)
    with path.open("ab") as opened:
        write_output(Path(f"/dev/fd/{opened.fileno()}"), " and more")
        write_output(Path(f"/proc/self/fd/{opened.fileno()}"), " and more")
        with pytest.raises(UserError, match="the file that is read"):
            check_output(Path(f"/dev/fd/{opened.fileno()}"), inputs=[path])
    assert path.read_text() == "precious and more and more"
    with pytest.raises(UserError, match="cannot be written"):
        check_output(Path("/dev/fd/987"))


def test_a_pipe_stays_a_pipe(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"content")
    reader.join(timeout=10)
    assert found == [b"content"]
    assert pipe.is_fifo()


def test_a_name_as_long_as_may_be_is_written(tmp_path):
    path = tmp_path / ("a" * 255)
    write_output(path, "content")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "words"),
    [("out", "exists already"), ("out/below/it", "is a file"), ("a\0b", "cannot be made")],
)
def test_a_folder_that_cannot_be_made_is_refused(name, words, tmp_path):
    _file(tmp_path / "out")
    with pytest.raises(UserError, match=words):
        check_is_new(tmp_path / name)
