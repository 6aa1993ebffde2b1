"""Cases of the campaign: command lines in YAML files, and what has to come of them."""

from __future__ import annotations

import hashlib
import json
import shlex
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from forked_commands import Outcome
from unit.campaign.damages import damage
from unit.campaign.runs import Runs

_FOLDER = Path(__file__).parent
# What a sentence for a user never holds.
_INTERNALS = ("Traceback", "NoneType", "object at 0x", "<class", "'default'", "adapter1")


@dataclass(frozen=True)
class Case:
    """One command line and what has to come of it.

    Attributes:
        command: all words after `lora2`; `$name` means a path or an abbreviation.
        code: the exit codes that are right.
        says: words of the sentence, or of the output of a command that ends well.
        files: made before, in the folder that the command runs in; bytes as they are, text in
            `encoding`.
        damage: a file, and what happens to it before.
        before: lines of a shell that run before; exit code 77 skips the case.
        input: what standard input holds.
        encoding: of the files.
        streams: the encoding of the standard streams.
        broken_pipe: whether nobody reads standard output.
        writes: files and folders that a command that ends well leaves, and no others.
        environment: more environment variables.
    """

    name: str
    command: str
    code: tuple[int, ...] = (2,)
    says: tuple[str, ...] = ()
    files: dict[str, str | bytes] = field(default_factory=dict)
    damage: tuple[tuple[str, str], ...] = ()
    before: str = ""
    input: str = ""
    encoding: str = "utf-8"
    streams: str = "utf-8"
    broken_pipe: bool = False
    writes: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, runs: Runs, folder: Path) -> None:
        """Run the command in an empty folder and check all that must hold."""
        work = folder / "work"
        work.mkdir()
        self._prepare(runs, work)
        before, shared = contents(work), runs.stamps()
        outcome = runs.call(
            self._words(runs), work,
            input=self.input, encoding=self.streams, broken_pipe=self.broken_pipe,
            environment=self.environment,
        )  # fmt: skip
        self._check_said(outcome)
        after = contents(work)
        self._check_written(before, after)
        for name in after.keys() - before.keys():
            if name.endswith((".json", ".jsonl")):
                check_json(work / name)
        assert runs.stamps() == shared, "a run that was only read has changed"

    def _words(self, runs: Runs) -> list[str]:
        return shlex.split(runs.expand(self.command))

    def _prepare(self, runs: Runs, work: Path) -> None:
        for name, content in self.files.items():
            data = content if isinstance(content, bytes) else content.encode(self.encoding)
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)
        if self.before:
            shell = ["sh", "-ec", runs.expand(self.before)]
            code = subprocess.run(shell, cwd=work, stdin=subprocess.DEVNULL, check=False,
                                  stdout=subprocess.DEVNULL).returncode  # fmt: skip
            if code == 77:
                pytest.skip("this machine cannot prepare it")
            assert code == 0, "the case could not be prepared"
        for name, how in self.damage:
            damage(work / name, how)

    def _check_said(self, outcome: Outcome) -> None:
        said = outcome.errors if outcome.code == 2 else outcome.output + outcome.errors
        shown = f"exit code {outcome.code}\n{outcome.output[-1000:]}{outcome.errors[-2000:]}"
        assert outcome.code in self.code, shown
        assert not [each for each in _INTERNALS if each in said], shown
        if outcome.code == 2:
            assert said.startswith("lora2: "), shown
            assert said.count("\n") == 1, shown
        # Where both are right, the words are those of the refusal.
        if outcome.code == 2 or self.code == (0,):
            assert all(each.lower() in said.lower() for each in self.says), (self.says, shown)

    def _check_written(self, before: dict[str, str], after: dict[str, str]) -> None:
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        assert not [name for name in changed if name.endswith(".tmp")], changed
        ends_well = 0 in self.code
        left = {name for name in changed if not (ends_well and self._writes(name))}
        assert not left, f"written or changed: {sorted(left)}"
        if self.code == (0,):
            assert all(name in after for name in self.writes), sorted(after)

    def _writes(self, name: str) -> bool:
        return any(name == each or name.startswith(f"{each}/") for each in self.writes)


def contents(folder: Path) -> dict[str, str]:
    """Return what a folder holds, by path."""
    return {str(path.relative_to(folder)): _content(path) for path in folder.rglob("*")}


def _content(path: Path) -> str:
    mode = path.lstat().st_mode
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not stat.S_ISREG(mode):
        return f"kind {stat.S_IFMT(mode):o}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_json(path: Path) -> None:
    """Check that a file of JSON or JSON lines is complete, and without NaN."""
    text = path.read_text(encoding="utf-8")
    for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
        json.loads(part, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def cases_in(*names: str) -> list[Any]:
    """Return the cases of YAML files as parameters of a test."""
    return [pytest.param(case, id=case.name) for name in names for case in _cases_of(name)]


def _cases_of(name: str) -> Iterator[Case]:
    for group in read_cases(name):
        about, cases, shared = group.pop("about"), group.pop("cases"), group
        for end, own in cases.items():
            more = own if isinstance(own, dict) else {"says": own}
            command = f"{shared.get('command', '')} {end}".strip()
            settings = {**shared, "command": command, **more}
            yield Case(
                name=f"{about}: {end}",
                **{name: _frozen(name, value) for name, value in settings.items()},
            )


_TUPLES = {each.name for each in fields(Case) if str(each.type).startswith("tuple")}


def _frozen(name: str, value: Any) -> Any:
    if name == "damage":
        return tuple(value.items())
    if name in _TUPLES:
        return tuple(value) if isinstance(value, list) else (value,)
    return value


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: of two cases, one would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{node.start_mark}: {twice}"
        return super().construct_mapping(node, deep)


def read_cases(name: str) -> Any:
    """Return what a YAML file of this folder holds."""
    return yaml.load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), _Loader)
