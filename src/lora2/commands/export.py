"""`lora2 export`: a run's adapter for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora2.commands.evaluate import add_run_options
from lora2.commands.parser import OptionParser
from lora2.errors import UserError
from lora2.exchange.gguf import export_gguf
from lora2.exchange.lora import export_lora
from lora2.exchange.merged import export_merged
from lora2.exchange.verification import Batch
from lora2.support.files import check_is_new
from lora2.training.methods.registry import METHODS
from lora2.training.models import quiet_loading
from lora2.training.saved_run import SavedRun, load_saved_run, load_validation
from lora2.tuners.base.layer import layers_with

_ROWS = 2
_FORMS = {
    "lora": "a LoRA in PEFT's format, for PEFT, vLLM, SGLang and others",
    "merged": "a transformers checkpoint with the adapter in its weights",
    "gguf": "a LoRA for llama.cpp",
}


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if options.compact and options.to != "lora":
        raise UserError(f"compact: --to {options.to} has no such form; leave --compact out.")
    check_is_new(options.output, "file" if options.to == "gguf" else "folder")
    run = load_saved_run(options.run, options.model)
    _check(run, options.to)
    with quiet_loading():
        batch = _rows_of_run(run)
        if options.to == "merged":
            _merged(run, options.output, batch)
        elif options.to == "gguf":
            _gguf(run, options.output, batch)
        else:
            _lora(run, options.output, batch, options.compact)
    return 0


def _rows_of_run(run: SavedRun) -> Batch | None:
    """Return rows that the run was validated on, to compare logits on.

    None where they are no longer there; and of language models, which take any tokens.
    """
    if run.settings.objective != "classification":
        return None
    try:
        validation = load_validation(run, None).validation
    except (UserError, OSError):
        return None
    rows = next(iter(validation.values()))
    return next(run.batches(rows.select(range(min(_ROWS, len(rows)))), _ROWS))


def _lora(run: SavedRun, output: Path, batch: Batch | None, compact: bool) -> None:
    export = export_lora(run.model, output, compact=compact, batch=batch, tokenizer=run.tokenizer)
    ranks = sorted(export.ranks.values())
    print(f"LoRA of {len(ranks)} modules, ranks {ranks[0]} to {ranks[-1]}, written to {output}")
    _tell_difference(export.difference)
    for engine, objections in export.objections.items():
        print(f"{engine}: " + (f"no, {'; '.join(objections)}" if objections else "will serve it"))


def _merged(run: SavedRun, output: Path, batch: Batch | None) -> None:
    export = export_merged(run.model, output, batch=batch, tokenizer=run.tokenizer)
    print(f"Merged model written to {output}")
    _tell_difference(export.difference)


def _gguf(run: SavedRun, output: Path, batch: Batch | None) -> None:
    export = export_gguf(run.model, output, batch=batch)
    print(f"GGUF adapter of rank {export.rank} written to {output}")
    _tell_difference(export.difference)


def _tell_difference(difference: float) -> None:
    print(f"Read back, its logits differ from the adapter's by {difference:.1e} of the largest")


def _check(run: SavedRun, form: str) -> None:
    if form == "merged":
        run.check_merges()
    elif not layers_with(run.model, "default"):
        method = METHODS[run.settings.run.method]
        advice = "its adapter is one already" if method.name == "lora" else "export to merged"
        raise UserError(
            f"to: {form} is for LoRA² and SoRA, not for {method.label}; {advice} "
            f"({run.folder.adapter})."
        )


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 export",
        description="Write a run's adapter in a form that other programs read. The change of each "
        "weight is exactly a LoRA of rank k, so nothing is approximated, and what was written is "
        "read back and compared before it appears.",
    )
    add_run_options(parser)
    parser.add_argument(
        "--to",
        choices=_FORMS,
        default="lora",
        help="; ".join(f"{name}: {text}" for name, text in _FORMS.items()) + " (default: lora)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder or file to write")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="of lora: each module at its own rank, for PEFT and recent vLLM",
    )
    return parser
