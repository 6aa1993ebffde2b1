"""The runs, models and files that all cases share."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from string import Template
from typing import Any

import yaml

from command_line import save_tiny_model
from forked_commands import ForkedCommands, Outcome
from language_model import save_language_model

_SHORT = yaml.safe_load(Path(__file__).with_name("abbreviations.yaml").read_text("utf-8"))
_PAIRS = "left,right,label\n" + "".join(
    f"the table {number},a doctor,{'ab'[number % 2]}\n" for number in range(24)
)


class Runs:
    """Trained runs by name, for commands that read them."""

    def __init__(self, folder: Path, forked: ForkedCommands) -> None:
        self.folder, self._forked = folder, forked
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

    def call(self, words: list[str], work: Path, **more: Any) -> Outcome:
        """Run `lora2` with these words in a forked child."""
        return self._forked.call(words, work, **more)

    def stamps(self) -> dict[Path, int]:
        """Return when each shared file was changed."""
        return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}

    def _train(self, name: str, command: str) -> None:
        outcome = self.call(shlex.split(self.expand(command)), self.folder)
        assert outcome.code == 0, outcome.errors
        (self.folder / "run").rename(self.folder / name)

    def _stop_early(self) -> None:
        """Make of a finished run one that stopped after its first epoch."""
        unfinished = self.folder / "unfinished"
        shutil.copytree(self.folder / "finished", unfinished)
        (unfinished / "summary.json").unlink()
        for part in ("adapter", "checkpoints/checkpoint-8"):
            shutil.rmtree(unfinished / part)
