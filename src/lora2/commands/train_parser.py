"""Options of `lora2 train`: the command line over a YAML file over the task's recipe."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from lora2.commands.meant_option import advice_on
from lora2.commands.option_parser import OptionParser
from lora2.commands.option_values import (
    NUMBERS,
    or_none,
    read_mapping,
    read_mapping_or_file,
    read_truth,
)
from lora2.errors import UserError
from lora2.support.checked_files import read_yaml
from lora2.support.error_text import clause_of
from lora2.support.field_types import allows_none, fits, in_words, shortened
from lora2.support.shown_values import cut_off
from lora2.training.checks.option_ranges import CHOICES
from lora2.training.options.arguments import OPTION_GROUPS
from lora2.training.options.derived_options import FILE, RULES
from lora2.training.options.recipes import GENERAL


class TrainParser(OptionParser, HfArgumentParser):
    """Options of all groups, generated from their dataclasses."""

    def __init__(self) -> None:
        super().__init__(
            prog="lora2 train",
            usage="lora2 train [options]",
            dataclass_types=[],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description="Train a LoRA² adapter on texts or images. Without options: the packaged "
            "MiniLM on agreement; with --objective sft or dpo, the packaged SmolLM2 on rewrite or "
            "preferences; with token-classification, MiniLM on appointments; with "
            "image-classification, a small vision transformer that the run makes, on digits. "
            "Defaults are those of the general recipe; some tasks have their own, and the run "
            "folder's config.yaml shows what held.",
        )
        self.add_argument(
            "--config", help="YAML file of options by name; the command line overrides it."
        )
        self._hints: dict[str, Any] = {}
        for title, group in OPTION_GROUPS.items():
            group._argument_group_name = title  # type: ignore[attr-defined]
            self._hints |= get_type_hints(group)
            self._add_dataclass_arguments(group)
        of_files = {
            each.name
            for group in OPTION_GROUPS.values()
            for each in dataclasses.fields(group)
            if FILE in each.metadata
        }
        for action in self._actions:
            if action.choices is not None and action.dest in CHOICES:
                action.choices = list(CHOICES[action.dest])
            if action.dest in of_files:
                action.type = read_mapping_or_file
            elif action.dest in self._hints:
                reader = _reader(self._hints[action.dest], action.type)
                # `--fsdp` without a value is True, which a run's file has as true.
                is_switch = action.const is True and reader is str
                action.type = _read_switch_or_text if is_switch else reader
        self._texts = {
            action.dest
            for action in self._actions
            if action.dest in self._hints and _holds_text(action, self._hints[action.dest])
        }
        self.set_defaults(**GENERAL)

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Any) -> None:
        # The parent gives all metadata to argparse, which does not know our rules.
        shown = copy.copy(field)
        shown.metadata = {name: each for name, each in field.metadata.items() if name not in RULES}
        HfArgumentParser._parse_dataclass_field(parser, shown)

    def given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the options that the command line or its YAML file name, and no others."""
        from_command_line = self.typed(arguments)
        config = from_command_line.pop("config", None)
        if config is None:
            return from_command_line
        try:
            return self.given_by_file(Path(config)) | from_command_line
        except UserError as error:
            raise UserError(f"config: {error}") from error

    def given_by_file(self, path: Path) -> dict[str, Any]:
        """Return the options of a YAML file, checked as on the command line.

        Raises:
            UserError: no such file, no YAML, an unknown option, or a value of the wrong kind; the
                sentence names file and option.
        """
        content = read_yaml(
            path,
            "write one line `option: value` for each option",
            may_be_empty=True,
            holds_text=lambda key: key.replace("-", "_") in self._texts,
        )
        given: dict[str, Any] = {}
        for name, value in content.items():
            option = name.replace("-", "_")
            if option in given:
                raise UserError(f"{path} has the option {option} twice; leave one out.")
            if option not in self._hints and option.lower() != "config":
                raise UserError(f"{path} has the key {self._unknown_key(name)}")
            given[option] = self._value_of_file(option, value, path)
        return given

    def _value_of_file(self, option: str, value: Any, path: Path) -> Any:
        if option.lower() == "config":
            raise UserError(
                f"{path} has the key config, but a file cannot name another; write all options "
                "into one file."
            )
        hint = self._hints[option]
        if value is None:
            if not allows_none(hint):
                raise UserError(
                    f"in {path}, {option} is null, and must be {in_words(hint)}; write a value, or "
                    "leave the line out."
                )
            return None
        if option in self._texts and not (isinstance(value, str) or fits(value, hint)):
            raise _unreadable(option, value, hint, path)
        try:
            given = self.typed(_as_arguments(option, value))
        except (UserError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, _NoJsonError):
                raise UserError(
                    f"in {path}, {option} holds what JSON does not know ({clause_of(error)}); "
                    "write another value, or leave the line out."
                ) from error
            raise _unreadable(option, value, hint, path) from error
        # A list may hold what reads as another option.
        if given.keys() != {option}:
            raise _unreadable(option, value, hint, path)
        return given[option]

    def _unknown_key(self, key: str) -> str:
        option = key.replace("-", "_")
        switch = option.removeprefix("no_")
        if switch != option and self._hints.get(switch) is bool:
            return f"{cut_off(repr(key))}, which is no option; write `{switch}: false`."
        advice = advice_on(option, self._hints) or f"`{self.prog} --help` lists all."
        return f"{cut_off(repr(key))}, which is no option of `{self.prog}`; {advice}"


def _holds_text(action: argparse.Action, hint: Any) -> bool:
    """Whether an option is a text, a word of some, or a list of texts, and no truth value."""
    others = (True, 1, 0.5, [1])
    takes_text = fits("", hint) or fits([""], hint) or action.choices is not None
    return takes_text and action.const is not True and not any(fits(x, hint) for x in others)


def _as_arguments(option: str, value: Any) -> list[str]:
    """Return a value of a file as words of a command line.

    Raises:
        TypeError: the command line has no words for it, such as a list within a list.
    """
    if isinstance(value, list):
        if not all(isinstance(each, str | int | float) for each in value):
            raise TypeError("a list of something else than words and numbers")
        return [f"--{option}", *map(str, value)]
    text = _as_json_text(value) if isinstance(value, dict) else str(value)
    return [f"--{option}={text}"]


class _NoJsonError(ValueError):
    """A mapping holds NaN or infinity."""


def _as_json_text(value: dict[Any, Any]) -> str:
    # A mapping that holds itself is no mapping to write, whatever else is in it.
    text = json.dumps(value)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise _NoJsonError(*error.args) from error
    return text


def _unreadable(option: str, value: Any, hint: Any, path: Path) -> UserError:
    return UserError(
        f"in {path}, {option} is {shortened(value)}, and must be {in_words(hint)}; write such a "
        "value, or leave the line out."
    )


def _reader(hint: Any, present: Any) -> Any:
    """Return the function that reads an option's text: what argparse has, corrected by the hint."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    choices = get_args(hint) if is_union else (hint,)
    mappings = [choice for choice in choices if choice is dict or get_origin(choice) is dict]
    if mappings:
        # Where transformers takes a text too, it is the path of a JSON file.
        return read_mapping_or_file if str in choices else read_mapping
    if {str, bool} <= set(choices):
        # transformers' parser takes true and false alone.
        return _read_truth_or_text
    if type(None) in choices and str not in choices and present in NUMBERS:
        return or_none(NUMBERS[present])
    return present


def _read_truth_or_text(text: str) -> str | bool:
    try:
        return read_truth(text)
    except argparse.ArgumentTypeError:
        return text


def _read_switch_or_text(text: str) -> str | bool | None:
    """Return True or None for what a switch is set to, and any other text as it is."""
    return {"true": True, "false": None}.get(text.lower(), text)
