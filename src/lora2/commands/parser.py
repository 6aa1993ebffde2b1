"""Options of `lora2 train`: the command line over a YAML file over the task's recipe."""

from __future__ import annotations

import argparse
import difflib
import json
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.arguments import (
    AdapterArguments,
    BottleneckArguments,
    DataArguments,
    ModelArguments,
    PromptArguments,
    RunArguments,
    SoraArguments,
    StartArguments,
    TrainingOptions,
)
from lora2.training.recipes import GENERAL
from lora2.training.text_arguments import TextArguments

_GROUPS: tuple[tuple[str, type], ...] = (
    ("adapter (Lora2Config)", AdapterArguments),
    ("adapter of --method lora2", StartArguments),
    ("adapter of --method sora", SoraArguments),
    ("adapter of --method bottleneck", BottleneckArguments),
    ("adapter of --method prompt", PromptArguments),
    ("data", DataArguments),
    ("text, of --objective sft", TextArguments),
    ("model", ModelArguments),
    ("run", RunArguments),
    ("training (transformers.TrainingArguments)", TrainingOptions),
)
_NOT_GIVEN = object()


class OptionParser(argparse.ArgumentParser):
    """An ArgumentParser that raises a UserError in place of printing its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise the message as one sentence."""
        raise UserError(f"{message}; `{self.prog} --help` lists the options.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse an unknown option with the nearest known one."""
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            raise UserError(self._unknown(rest[0]))
        return namespace, rest

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        known = list(self._option_string_actions)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; `{self.prog} --help` lists all."
        kind = "option" if word.startswith("-") else "argument"
        return f"{name} is not an {kind} of `{self.prog}`{hint}"


class TrainParser(OptionParser, HfArgumentParser):
    """Options of all groups, generated from their dataclasses."""

    def __init__(self) -> None:
        super().__init__(
            prog="lora2 train",
            usage="lora2 train [options]",
            dataclass_types=[],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description="Train a LoRA² adapter on a text task. Without options: the packaged "
            "MiniLM on agreement; with --objective sft, the packaged SmolLM2 on rewrite. Defaults "
            "are those of the general recipe; some tasks have their own, and the run folder's "
            "config.yaml shows what held.",
        )
        self.add_argument(
            "--config", help="YAML file of options by name; the command line overrides it."
        )
        self._hints: dict[str, Any] = {}
        for title, group in _GROUPS:
            group._argument_group_name = title  # type: ignore[attr-defined]
            self._hints |= get_type_hints(group)
            self._add_dataclass_arguments(group)
        for action in self._actions:
            if action.dest in self._hints:
                action.type = _reader(self._hints[action.dest], action.type)
        self.set_defaults(**GENERAL)

    def given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the options that the command line or its YAML file name, and no others."""
        from_command_line = self._parse(arguments)
        config = from_command_line.pop("config", None)
        if config is None:
            return from_command_line
        return self.given_by_file(Path(config)) | from_command_line

    def given_by_file(self, path: Path) -> dict[str, Any]:
        """Return the options of a YAML file, checked as on the command line.

        Raises:
            UserError: no such file, no YAML, an unknown option, or a value of the wrong kind.
        """
        yaml = require("yaml", extra="train")
        if not path.is_file():
            raise UserError(f"config: {path} does not exist; give the path of a YAML file.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"config: {path} is not YAML ({reason}).") from error
        if not isinstance(content, dict):
            raise UserError(f"config: {path} must hold lines of the form `option: value`.")
        given: dict[str, Any] = {}
        for name, value in content.items():
            option = str(name).replace("-", "_")
            if option not in self._hints:
                raise UserError(f"config: in {path}, {self._unknown('--' + option)}")
            if value is None:
                given[option] = None
            else:
                given |= self._parse(_as_arguments(option, value))
        return given

    def _parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        # argparse writes defaults only where the namespace has no value yet.
        namespace = argparse.Namespace(**{action.dest: _NOT_GIVEN for action in self._actions})
        parsed = vars(self.parse_args(list(arguments), namespace))
        return {name: value for name, value in parsed.items() if value is not _NOT_GIVEN}


def _as_arguments(option: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{option}", *map(str, value)]
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return [f"--{option}={text}"]


def _reader(hint: Any, present: Any) -> Any:
    """Return the function that reads an option's text: what argparse has, mended by the hint."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    choices = get_args(hint) if is_union else (hint,)
    mappings = [choice for choice in choices if choice is dict or get_origin(choice) is dict]
    if mappings:
        return _read_mapping
    if type(None) in choices and str not in choices and present in (int, float):
        return _or_none(present)
    return present


def _read_mapping(text: str) -> Any:
    if text.startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"query": 4}}')


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_or_none(text: str) -> Any:
        return None if text.lower() in ("none", "null") else read(text)

    # argparse names the type in its message.
    read_or_none.__name__ = read.__name__
    return read_or_none
