"""The runs, models and files that all cases share, and the process that runs commands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from command_line import save_tiny_model
from language_model import save_language_model

_SECONDS = 60
_SHORT = yaml.safe_load(Path(__file__).with_name("abbreviations.yaml").read_text("utf-8"))
_PAIRS = "left,right,label\n" + "".join(
    f"the table {number},a doctor,{'ab'[number % 2]}\n" for number in range(24)
)


@dataclass(frozen=True)
class Outcome:
    """What came of a command."""

    code: int
    output: str
    errors: str


class Runs:
    """Trained runs by name, for commands that read them, and the process that forks commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._server = _start_server(folder.with_name("fork_server.txt"))
        save_tiny_model(folder / "model")
        save_tiny_model(folder / "other", hidden=32)
        save_language_model(folder / "language")
        (folder / "pairs.csv").write_text(_PAIRS, encoding="utf-8")
        for name, command in _SHORT["runs"].items():
            self._train(name, command)
        self._stop_early()

    def expand(self, command: str) -> str:
        """Return a command with paths and abbreviations in place of their `$names`."""
        names = {path.name: shlex.quote(str(path)) for path in self.folder.iterdir()}
        # Each may be in those below it.
        for name, words in _SHORT["abbreviations"].items():
            names[name] = Template(words).safe_substitute(names)
        return Template(command).substitute(names)

    def call(self, words: list[str], work: Path, scratch: Path, **more: Any) -> Outcome:
        """Run `lora2` with these words in a forked child."""
        defaults = {"input": "", "encoding": "utf-8", "broken_pipe": False, "environment": {}}
        place = {"folder": str(work), "scratch": str(scratch)}
        request = {"words": words, "seconds": _SECONDS, **place, **defaults, **more}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, self.folder.with_name("fork_server.txt").read_text()
        return Outcome(**json.loads(answer))

    def stamps(self) -> dict[Path, int]:
        """Return when each shared file was changed."""
        return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}

    def close(self) -> None:
        """End the process."""
        self._server.communicate()

    def _train(self, name: str, command: str) -> None:
        scratch = self.folder.with_name("scratch")
        scratch.mkdir(exist_ok=True)
        words = shlex.split(self.expand(command))
        outcome = self.call(words, self.folder, scratch)
        assert outcome.code == 0, outcome.errors
        (self.folder / "run").rename(self.folder / name)

    def _stop_early(self) -> None:
        """Make of a finished run one that stopped after its first epoch."""
        unfinished = self.folder / "unfinished"
        shutil.copytree(self.folder / "finished", unfinished)
        (unfinished / "summary.json").unlink()
        for part in ("adapter", "checkpoints/checkpoint-8"):
            shutil.rmtree(unfinished / part)


def _start_server(errors: Path) -> subprocess.Popen[str]:
    places = {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    # A child has the thread that forked alone: a pool of threads would wait for the others.
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with errors.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "unit.campaign.fork_server"],
            env=os.environ | places | threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
