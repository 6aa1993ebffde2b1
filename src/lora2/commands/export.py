"""`lora2 export`: a run's adapter for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora2.commands.export_forms import EXPORT_FORMS
from lora2.commands.option_parser import OptionParser
from lora2.commands.run_options import add_new_path, add_run_options
from lora2.errors import UserError
from lora2.exchange.converted import export_converted
from lora2.support.files import check_is_new
from lora2.support.ranges import SIZE
from lora2.training.finished_run.cut import cut_run
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.methods.registry import method_of
from lora2.training.objectives.registry import objective_of
from lora2.training.options.idle_options import refuse_idle
from lora2.training.quiet import quiet_loading
from lora2.training.run_loading import load_saved_run, reload_base
from lora2.tuners.lora2.truncation import Truncation

_MORE = "the file has more, since every matrix is padded to the largest rank"
# What to say of a form that gives all matrices one rank.
_PADDED = {"lora": f"{_MORE} (--compact avoids most of that)", "gguf": _MORE}


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    form = EXPORT_FORMS[options.to]
    if options.compact and not form.has_compact:
        raise UserError(f"compact: --to {options.to} has no such form; leave --compact out.")
    check_is_new(options.output, form.written)
    run = load_saved_run(options.run, options.model)
    if options.to == "lora" and method_of(run.settings).from_peft:
        return _convert(run, options)
    said: list[str] = []
    compared = "the adapter's"
    if options.rank is not None or options.size is not None:
        run, done = cut_run(run, rank=options.rank, size=options.size)
        compared = "those of the adapter as it was cut"
        said = _what_is_left(done, "" if options.compact else _PADDED.get(options.to, ""))
    form.check(run, options.to)
    with quiet_loading():
        batch = objective_of(run.settings).sample_batch(run)
        (written, *facts), difference = form.write(run, options.output, batch, options.compact)
    print(written)
    print(_read_back(difference, compared))
    for fact in (*said, *facts):
        print(fact)
    return 0


def _convert(run: LoadedRun, options: Any) -> int:
    """Write an adapter of PEFT's other methods as a LoRA of the rank that was asked for."""
    label = method_of(run.settings).label
    refuse_idle({"compact": options.compact}, ("compact",), f"with {label}, which PEFT converts")
    refuse_idle({"size": options.size}, ("size",), f"with {label}; --rank says how large a LoRA is")
    rank = options.rank
    if rank is None or not SIZE.holds(rank):
        given = "" if rank is None else f"={rank:g}"
        raise UserError(
            f"rank{given}: PEFT converts {label} to a LoRA of a rank that you choose; write a "
            "whole number, such as --rank 8, or export to merged, which is exact."
        )
    with quiet_loading():
        batch = objective_of(run.settings).sample_batch(run)
        base: Any = reload_base(run, options.model).to(run.model.device)
        done = export_converted(
            run.model, base, options.output, int(rank), batch=batch, tokenizer=run.preprocessor
        )
    print(f"LoRA of rank {int(rank)}, the nearest to what {label} changes, written to {done.path}")
    print(_read_back(done.difference))
    return 0


def _read_back(difference: float, compared: str = "the adapter's") -> str:
    return f"Read back, its logits differ from {compared} by {difference:.1e} of the largest"


def _what_is_left(done: Truncation, padded: str) -> list[str]:
    """Return sentences about a cut; padded: what to say where the ranks differ."""
    worst = max(done.errors, key=done.errors.__getitem__)
    has_one_rank = len(set(done.ranks.values())) == 1
    note = "" if has_one_rank or not padded else f"; {padded}"
    return [
        f"Kept {sum(done.ranks.values()):,} singular values of {len(done.ranks)} matrices, "
        f"{done.parameters:,} parameters as a LoRA{note}",
        f"Left out {100 * done.error:.2f} % of the change in all, at most "
        f"{100 * done.errors[worst]:.2f} % ({worst})",
    ]


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 export",
        description="Write a run's adapter in a form that other programs read. The change of each "
        "weight is exactly a LoRA of rank k, so nothing is approximated unless --rank or --size "
        "cuts the adapter first. What was written is read back and compared before it appears. Of "
        "PEFT's other methods, a LoRA is the nearest one of the rank that --rank gives.",
    )
    add_run_options(parser)
    parser.add_argument(
        "--to",
        choices=EXPORT_FORMS,
        default="lora",
        help="; ".join(f"{name}: {form.words}" for name, form in EXPORT_FORMS.items())
        + " (default: lora)",
    )
    add_new_path(parser, "folder or file")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="of lora: each module at its own rank, for PEFT and recent vLLM",
    )
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument(
        "--rank",
        type=float,
        help="cut the adapter first, by one threshold on all its singular values: how many each "
        "matrix keeps, on average; also of LoRA and AdaLoRA runs; of PEFT's other methods the rank "
        "of the LoRA",
    )
    cut.add_argument(
        "--size",
        type=float,
        help="the same, by the parameters that are left at most; below 1, a share of them",
    )
    return parser
