"""What every command's options have in common: how they are read, and how refused."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lora2.commands.meant_option import advice_on
from lora2.commands.option_values import READERS
from lora2.errors import UserError
from lora2.support.nearest_name import nearest

_NOT_GIVEN = object()
# argparse of Python 3.11 takes -5e-1 and -inf for options.
_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE)
_CHOICE = re.compile(r"(invalid choice: '(.*)') \(choose from (.*)\)$")
_MORE_NAMES = re.compile(r"^(argument --\w+)(/--[\w-]+)+(?=:)")


class OptionParser(argparse.ArgumentParser):
    """An ArgumentParser that raises a UserError in place of printing its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        for kind, reader in READERS.items():
            self.register("type", kind, reader)
        self._negative_number_matcher = _NEGATIVE_NUMBER

    def add_argument(self, *names: Any, **kwargs: Any) -> argparse.Action:
        """Add an option; one of several words may be written with hyphens too."""
        with_hyphens = [name.replace("_", "-") for name in names if name.startswith("--")]
        names += tuple(name for name in with_hyphens if name not in names)
        return super().add_argument(*names, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise the message as one sentence."""
        # An option of several words has more than one name.
        message = _MORE_NAMES.sub(r"\1", message)
        message = _CHOICE.sub(_with_nearest, message)
        message = message.replace("ignored explicit argument", "takes no value, and was given")
        raise UserError(f"{message}; `{self.prog} --help` lists the options.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse an unknown option with the nearest known one."""
        _check_texts(sys.argv[1:] if args is None else args)
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            raise UserError(self._unknown(rest[0]))
        return namespace, rest

    def typed(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Return the options that the command line itself names."""
        # argparse writes defaults only where the namespace has no value yet.
        namespace = argparse.Namespace(**{action.dest: _NOT_GIVEN for action in self._actions})
        parsed = vars(self.parse_args(list(arguments), namespace))
        return {name: value for name, value in parsed.items() if value is not _NOT_GIVEN}

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        is_option = word.startswith("-")
        known = {option.lstrip("-") for option in self._option_string_actions} - {"h", "help"}
        advice = advice_on(name.lstrip("-"), known, prefix="--") if is_option else None
        kind = "option" if is_option else "argument"
        shown = name if name.strip() else repr(name)
        return (
            f"{shown} is not an {kind} of `{self.prog}`; "
            f"{advice or f'`{self.prog} --help` lists all.'}"
        )


def _with_nearest(choice: re.Match[str]) -> str:
    """Return argparse's words about a choice, with the name that may be meant before the others."""
    near = nearest(choice[2].lower(), (name.strip("'") for name in choice[3].split(", ")))
    if near is None:
        return choice[0]
    return f"{choice[1]}, did you mean {near!r} (choose from {choice[3]})"


def _check_texts(words: Sequence[str]) -> None:
    """Check that words are texts that a file can be named by, and that a file can hold.

    Raises:
        UserError: '--' as a value, a NUL character, or bytes that are not UTF-8, which Python
            reads as surrogates.
    """
    option = "arguments"
    for word in words:
        if word.startswith("--"):
            option = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and word.partition("=")[2] == "--":
            # argparse of Python 3.11 makes an empty list of it.
            raise UserError(f"{option}: '--' is no value; write another.")
        if "\0" in word:
            raise UserError(f"{option}: {word!r} has a NUL character in it; write it without.")
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UserError(f"{option}: {word!r} is not UTF-8; write it in that encoding.")
