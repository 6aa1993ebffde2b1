"""A tiny model, and a Ray cluster of this machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from command_line import save_tiny_model
from lora2.lab.experiments.setting import Search, Setting
from run_case import shrink_small_preset

_SECONDS_TO_START = 120


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a tiny pretrained model."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def tiny_preset(tiny_model, monkeypatch):
    """The preset `small`, of one method on some sentences, one seed."""
    settings = (Setting("head", "head alone", "head", "", {}, Search(1e-4, 1e-3, 1e-2)),)
    shrink_small_preset(monkeypatch, tiny_model, settings)


class Cluster:
    """A head node of two cores in processes of their own; only these are ended with it."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
        options = [
            f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--num-gpus=0",
            "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}",
        ]  # fmt: skip
        self._log = (folder / "start.log").open("w+")
        self._process = subprocess.Popen(
            [*command, *options], stdout=self._log, stderr=self._log, cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def wait(self):
        until = time.monotonic() + _SECONDS_TO_START
        while "Ray runtime started" not in Path(self._log.name).read_text():
            assert self._process.poll() is None, Path(self._log.name).read_text()
            assert time.monotonic() < until, Path(self._log.name).read_text()
            time.sleep(0.2)

    def workers(self):
        """The processes that Ray has started for tasks, by what they are called."""
        import psutil

        found = {}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                found[process] = " ".join(process.cmdline())
            except psutil.Error:
                continue
        return {process: name for process, name in found.items() if name.startswith("ray::")}

    def end(self):
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


# Of a module: in others, there is none to be found.
@pytest.fixture(scope="module")
def ray_cluster():
    """The cluster; skips where Ray is not installed."""
    pytest.importorskip("ray", reason="`make test-engines` installs Ray")
    # Not pytest's own folder: names of sockets must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)
