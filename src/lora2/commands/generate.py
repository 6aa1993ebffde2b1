"""`lora2 generate`: texts from a run's adapter on a language model."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lora2.commands.added_columns import result_names
from lora2.commands.option_parser import OptionParser
from lora2.commands.option_values import at_least_one
from lora2.commands.output_option import (
    add_output,
    check_output_option,
    check_rows,
    print_records,
    write_records,
)
from lora2.commands.run_options import add_batch_size, add_run_options
from lora2.data.own.messages import are_messages, check_has_messages_alone
from lora2.data.own.text_rows import column_of
from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable
from lora2.data.tables.writing import as_one_line
from lora2.data.tasks.writing_task import Prompt, as_prompt
from lora2.errors import UserError
from lora2.support.shown_values import as_shown
from lora2.training.base_models.chat_templates import before_answer
from lora2.training.base_models.generation import check_fits, generate
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.output import TEXTS
from lora2.training.run_loading import load_saved_run
from lora2.tuners.base.finite_checks import naming_merged_layer

_QUESTION = "> "
_RESULT = "completion"

# Scores are divided by it, and must stay within float32.
_LOWEST_TEMPERATURE = 1e-6


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    _check(options)
    table = None if options.file is None else _prompts_of(options.file)
    if table is not None:
        check_rows(table, options)
    run = load_saved_run(options.run, options.model, TEXTS)
    model: Any = run.model
    if options.merged:
        run.check_merges()
        with naming_merged_layer(model):
            model = model.merge_and_unload(safe_merge=True)
    if table is not None:
        _answer_file(run, model, table, options)
    elif options.prompt is not None:
        prompts = [as_prompt(options.prompt, run.task)]
        check_fits(model, run.tokenizer, prompts, "prompt")
        print(next(_texts(run, model, prompts, options)))
    else:
        _converse(run, model, options)
    return 0


def _texts(run: LoadedRun, model: Any, prompts: Sequence[Prompt], options: Any) -> Iterator[str]:
    return generate(
        model,
        run.tokenizer,
        prompts,
        max_new_tokens=options.max_new_tokens or run.settings.text.max_new_tokens,
        temperature=options.temperature,
        batch_size=options.batch_size,
    )


def _answer_file(run: LoadedRun, model: Any, table: DataTable, options: Any) -> None:
    (name,) = result_names(table.column_names, [_RESULT])
    rows = table.records()
    if run.task["conversational"]:
        check_has_messages_alone(table, "file", "shown to the model")
    prompts = [_prompt(prompt, run) for prompt in column_of(table, "prompt", "file")]
    _check_template(run, prompts, table.source)
    check_fits(model, run.tokenizer, prompts, "file")
    texts = _texts(run, model, prompts, options)
    if options.output is None:
        print_records(row | {name: text} for row, text in zip(rows, texts, strict=True))
        return
    if options.output.suffix.lower() == ".tsv":
        texts = _on_one_line(texts)
    records = [row | {name: text} for row, text in zip(rows, texts, strict=True)]
    write_records(records, options, "completions", table.types)


def _on_one_line(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts as TSV can hold them; what took the time to write is not refused."""
    changed = 0
    for text in texts:
        line = as_one_line(text)
        changed += line != text
        yield line
    if changed:
        print(
            f"lora2: {changed:,} completions have tabs or line breaks, which TSV has no form for; "
            "they became blanks. A file that ends in .csv or .jsonl keeps them.",
            file=sys.stderr,
        )


def _check_template(run: LoadedRun, prompts: Sequence[Prompt], source: str) -> None:
    """Check that the chat template of the run's tokenizer takes the messages of a file.

    Raises:
        UserError: it refuses some.
    """
    template = f"file: the chat template of {run.folder.adapter}"
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            before_answer(run.tokenizer, prompt, f"row {number} of {source}", template)


def _prompt(prompt: Any, run: LoadedRun) -> Prompt:
    if isinstance(prompt, str):
        return as_prompt(prompt, run.task)
    if not run.task["conversational"]:
        raise UserError(
            f"file: a prompt is a list of messages, and {run.folder.path} has learnt from bare "
            "text; write the prompts as text."
        )
    messages: Prompt = prompt
    return messages


def _prompts_of(path: Path) -> DataTable:
    """Return a file's table, whose prompts have been checked."""
    table = read_table(path)
    result_names(table.column_names, [_RESULT])
    for number, prompt in enumerate(column_of(table, "prompt", "file"), start=1):
        if not (isinstance(prompt, str) and prompt) and not are_messages(prompt):
            raise UserError(
                f"file: prompt is {as_shown(prompt)} in row {number} of {path}; write a text, or "
                "a list of messages with role and content."
            )
    return table


def _converse(run: LoadedRun, model: Any, options: Any) -> None:
    """Answer each line that is typed, apart from those before it, until the input ends."""
    print("One prompt a line; Ctrl-D ends.")
    while True:
        try:
            text = input(_QUESTION)
        except EOFError:
            print()
            return
        if not text.strip():
            continue
        prompts = [as_prompt(text, run.task)]
        try:
            check_fits(model, run.tokenizer, prompts, "prompt")
        except UserError as error:
            # A line that is too long does not end the conversation.
            print(error)
            continue
        print(next(_texts(run, model, prompts, options)))


def _can_type() -> bool:
    # A stream that is closed is None.
    return sys.stdin is not None and sys.stdin.isatty()


def _check(options: Any) -> None:
    if options.prompt is not None and options.file is not None:
        raise UserError("generate: give either --prompt or --file, and not both.")
    if options.prompt is None and options.file is None and not _can_type():
        raise UserError("generate: give --prompt or --file; without a terminal nobody can type.")
    if options.output is not None and options.file is None:
        raise UserError("output: it is for the prompts of --file; leave it out, or add --file.")
    check_output_option(options)
    temperature = options.temperature
    if temperature != 0 and not _LOWEST_TEMPERATURE <= temperature < math.inf:
        raise UserError(
            f"temperature={temperature} must be 0 (greedy), or a finite number of at least "
            f"{_LOWEST_TEMPERATURE:g}."
        )


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 generate",
        description="Write texts with a run's adapter. Without --prompt and --file: answers what "
        "is typed, line by line.",
    )
    add_run_options(parser)
    parser.add_argument("--prompt", help="one prompt")
    parser.add_argument("--file", type=Path, help="a file with a column `prompt`")
    add_output(parser)
    parser.add_argument(
        "--merged", action="store_true", help="put the adapter into the weights before"
    )
    parser.add_argument(
        "--max_new_tokens", type=at_least_one,
        help="tokens at which a text is cut off (default: the run's)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 is greedy (default), above it draws"
    )
    add_batch_size(parser, 8, "prompts")
    return parser
