"""`lora2 export`: a run's adapter for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora2.commands.evaluate import add_run_options
from lora2.commands.export_forms import EXPORT_FORMS, ExportRequest
from lora2.commands.parser import OptionParser
from lora2.errors import UserError
from lora2.exchange.verification import Batch
from lora2.support.files import check_is_new
from lora2.training.loaded_run import SavedRun
from lora2.training.models import quiet_loading
from lora2.training.objectives.output import TEXTS
from lora2.training.objectives.registry import objective_of
from lora2.training.saved_run import load_saved_run, load_validation

_ROWS = 2


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    form = EXPORT_FORMS[options.to]
    if options.compact and not form.may_be_compact:
        raise UserError(f"compact: --to {form.name} has no such form; leave --compact out.")
    check_is_new(options.output, form.place)
    run = load_saved_run(options.run, options.model)
    form.check(run, form.name)
    with quiet_loading():
        form.write(run, ExportRequest(options.output, _rows_of_run(run), options.compact))
    return 0


def _rows_of_run(run: SavedRun) -> Batch | None:
    """Return rows that the run was validated on, to compare logits on.

    None where they are no longer there; and of language models, which take any tokens.
    """
    if objective_of(run.settings).output is TEXTS:
        return None
    try:
        validation = load_validation(run, None).validation
    except (UserError, OSError):
        return None
    rows = next(iter(validation.values()))
    return next(run.batches(rows.select(range(min(_ROWS, len(rows)))), _ROWS))


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
        choices=EXPORT_FORMS,
        default="lora",
        help="; ".join(f"{form.name}: {form.words}" for form in EXPORT_FORMS.values())
        + " (default: lora)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder or file to write")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="of lora: each module at its own rank, for PEFT and recent vLLM",
    )
    return parser
