"""Entry of the command line: finds the subcommand, and turns mistakes into one sentence."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from lora2.commands.sentences import as_sentence
from lora2.commands.standard_output import (
    drop_standard_output,
    drop_standard_output_if_broken,
    printing_what_can_be_shown,
)
from lora2.errors import UserError

COMMANDS = {
    "train": "train an adapter; without options, the packaged model on agreement",
    "evaluate": "evaluate a run's adapter again, on its validation data or another file",
    "predict": "label texts with a run's adapter",
    "generate": "write texts with a run's adapter on a language model",
    "export": "write a run's adapter as a LoRA, merged into the weights, or for llama.cpp",
    "combine": "write the weighted sum of several adapters",
    "import": "turn a trained LoRA or AdaLoRA adapter into one of LoRA²",
    "inspect": "show what a run kept, its budget and its loss",
    "reproduce": "make a table of the paper from run records, and the missing runs before",
    "tune": "search a method's learning rate, with as many trials as every other",
    "bench": "measure speed and memory next to PEFT's LoRA and AdaLoRA",
    "params": "count an adapter's parameters without loading weights",
}
# `import` cannot be the name of a module that Python code imports.
_MODULES = {"import": "import_adapter"}
NOT_READ, USER_MISTAKE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code.

    Returns:
        0; 1 if nothing reads what is printed any longer; 2 for a mistake of the user; 130 for
        Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with printing_what_can_be_shown():
        try:
            code = _dispatch(words)
            # Flushed here, where a full disk or a closed pipe still changes the exit code.
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except KeyboardInterrupt as interrupt:
            print(str(interrupt) or "Interrupted.", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            drop_standard_output()
            return NOT_READ
        except Exception as error:
            sentence = as_sentence(error, words[0] if words else "")
            if sentence is None:
                raise
            if isinstance(error, OSError):
                drop_standard_output_if_broken()
            print(f"lora2: {sentence}", file=sys.stderr)
            return USER_MISTAKE


def _dispatch(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        from lora2.version import __version__

        print(f"lora2 {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise UserError(f"{name!r} is not a command of lora2; {hint}")
    # What PEFT and transformers tell each other's developers; no user of a command can act on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|peft)\\.")
    # A GGUF file has none; the vocabulary is never changed here.
    warnings.filterwarnings("ignore", "Could not find a config file in")
    # Only the subcommand's own imports: matplotlib, the trainer and others cost seconds.
    command = importlib.import_module(f"lora2.commands.{_MODULES.get(name, name)}")
    code: int = command.execute(rest)
    return code


def _help() -> str:
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lora2 COMMAND [options]",
            "",
            "Multi-scale low-rank adapters (LoRA²) for Hugging Face models.",
            "",
            *lines,
            "",
            "`lora2 COMMAND --help` explains the options of a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
