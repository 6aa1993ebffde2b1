"""Entry of the command line: finds the subcommand, and turns mistakes into one sentence."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lora2_cli.commands import COMMANDS, unknown, usage
from lora2_cli.launched import Ending, say, speaks
from lora2_cli.standard_output import (
    drop_standard_output,
    drop_standard_output_if_broken,
    printing_what_can_be_shown,
)
from lora2_cli.start import VariableError, import_command
from lora2_cli.version import __version__

NOT_READ, USER_MISTAKE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code.

    Returns:
        0; 1 if nothing reads what is printed any longer; 2 for a mistake of the user; 130 for
        Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    ending = Ending()
    return ending.with_code(_answer(words))


def _answer(words: Sequence[str]) -> int:
    """Run a subcommand, say in one sentence what is wrong, and return the exit code."""
    with printing_what_can_be_shown():
        try:
            code = _run(words)
            # Flushed here, where a full disk or a closed pipe still changes the exit code.
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except KeyboardInterrupt as interrupt:
            say(str(interrupt) or "Interrupted.", INTERRUPTED)
            return INTERRUPTED
        except BrokenPipeError:
            drop_standard_output()
            return NOT_READ
        except VariableError as error:
            say(f"lora2: {error}", USER_MISTAKE)
            return USER_MISTAKE
        except Exception as error:
            error_sentences = import_command("error_sentences")
            sentence = error_sentences.as_sentence(error, words[0] if words else "")
            if sentence is None:
                raise
            if isinstance(error, OSError):
                drop_standard_output_if_broken()
            say(f"lora2: {sentence}", USER_MISTAKE)
            return USER_MISTAKE


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = words
    if name == "--version":
        print(f"lora2 {__version__}")
        return 0
    if name not in COMMANDS:
        say(f"lora2: {unknown(name)}", USER_MISTAKE)
        return USER_MISTAKE
    return _execute(name, rest)


def _execute(name: str, words: Sequence[str]) -> int:
    hide_warnings_for_developers()
    if not speaks():
        warnings.simplefilter("ignore")
    with showing_warnings_as_sentences():
        # Only the subcommand's own imports: matplotlib, the trainer and others cost seconds.
        code: int = import_command(name).execute(words)
    return code


@contextmanager
def showing_warnings_as_sentences() -> Iterator[None]:
    """Show what a warning says, without the line of Python code that it came from."""
    usual = warnings.formatwarning

    def formatted(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, UserWarning):
            return f"Warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def hide_warnings_for_developers() -> None:
    """Hide what PEFT and transformers tell each other; no user of a command can act on it."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|peft)\\.")
    # A GGUF file has no config; the vocabulary is never changed here.
    warnings.filterwarnings("ignore", "Could not find a config file in")


if __name__ == "__main__":
    sys.exit(main())
