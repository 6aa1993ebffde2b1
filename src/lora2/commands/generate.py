"""`lora2 generate`: texts from a run's adapter on a language model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora2.commands.parser import OptionParser
from lora2.data.table_files import read_table
from lora2.data.text_rows import are_messages
from lora2.data.text_task import Prompt, as_prompt
from lora2.errors import UserError
from lora2.support.files import write_atomically
from lora2.training.generation import generate
from lora2.training.saved_run import SavedRun, load_saved_run

_QUESTION = "> "


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    _check(options)
    rows = None if options.file is None else _rows(options.file)
    run = load_saved_run(options.run, options.model, "sft")
    model: Any = run.model
    if options.merged:
        run.check_merges()
        model = model.merge_and_unload(safe_merge=True)
    if rows is not None:
        _answer_file(run, model, rows, options)
    elif options.prompt is not None:
        print(next(_texts(run, model, [as_prompt(options.prompt, run.task)], options)))
    else:
        _converse(run, model, options)
    return 0


def _texts(run: SavedRun, model: Any, prompts: Sequence[Prompt], options: Any) -> Iterator[str]:
    return generate(
        model,
        run.tokenizer,
        prompts,
        max_new_tokens=options.max_new_tokens or run.settings.text.max_new_tokens,
        temperature=options.temperature,
        batch_size=options.batch_size,
    )


def _answer_file(run: SavedRun, model: Any, rows: Sequence[dict[str, Any]], options: Any) -> None:
    prompts = [_prompt(row, run) for row in rows]
    texts = _texts(run, model, prompts, options)
    lines = (
        json.dumps(row | {"completion": text}, ensure_ascii=False)
        for row, text in zip(rows, texts, strict=True)
    )
    if options.output is None:
        for line in lines:
            print(line, flush=True)
        return
    write_atomically(options.output, "".join(f"{line}\n" for line in lines))
    print(f"{len(rows):,} completions written to {options.output}")


def _prompt(row: dict[str, Any], run: SavedRun) -> Prompt:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return as_prompt(prompt, run.task)
    if not run.task["conversational"]:
        raise UserError(
            f"file: a prompt is a list of messages, and {run.folder.path} has learnt from bare "
            "text; write the prompts as text."
        )
    messages: Prompt = prompt
    return messages


def _rows(path: Path) -> list[dict[str, Any]]:
    table = read_table(path)
    rows = []
    for number, prompt in enumerate(table.column("prompt", "file"), start=1):
        if not (isinstance(prompt, str) and prompt) and not are_messages(prompt):
            raise UserError(
                f"file: prompt is {prompt!r} in row {number} of {path}; write a text, or a list of "
                "messages with role and content."
            )
        rows.append({"prompt": prompt})
    return rows


def _converse(run: SavedRun, model: Any, options: Any) -> None:
    """Answer each line that is typed, apart from those before it, until the input ends."""
    print("One prompt a line; Ctrl-D ends.")
    while True:
        try:
            text = input(_QUESTION)
        except EOFError:
            print()
            return
        if text.strip():
            print(next(_texts(run, model, [as_prompt(text, run.task)], options)))


def _check(options: Any) -> None:
    if options.prompt is not None and options.file is not None:
        raise UserError("generate: give either --prompt or --file, and not both.")
    if options.prompt is None and options.file is None and not sys.stdin.isatty():
        raise UserError("generate: give --prompt or --file; without a terminal nobody can type.")
    if options.output is not None and options.file is None:
        raise UserError("output: it is for the prompts of --file; leave it out, or add --file.")
    if options.output is not None and options.output.is_dir():
        raise UserError(f"output: {options.output} is a folder; give a file.")
    if options.output is not None and not options.output.parent.is_dir():
        raise UserError(
            f"output: the folder {options.output.parent} does not exist; make it first."
        )
    if options.temperature < 0:
        raise UserError(f"temperature={options.temperature} must be 0 (greedy) or above.")
    for name in ("max_new_tokens", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value} must be a whole number of at least 1.")


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 generate",
        description="Write texts with a run's adapter. Without --prompt and --file: answers what "
        "is typed, line by line.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--model", help="where the base model lies now, if it has moved")
    parser.add_argument("--prompt", help="one prompt")
    parser.add_argument("--file", type=Path, help="a file with a column `prompt`")
    parser.add_argument("--output", type=Path, help="JSON lines file to write, else the terminal")
    parser.add_argument(
        "--merged", action="store_true", help="put the adapter into the weights before"
    )
    parser.add_argument(
        "--max_new_tokens", "--max-new-tokens", type=int,
        help="tokens at which a text is cut off (default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 is greedy (default), above it draws"
    )
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, default=8, help="prompts at once (default: 8)"
    )
    return parser
