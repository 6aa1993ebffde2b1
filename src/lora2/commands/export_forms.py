"""The forms that `lora2 export` writes; a new one is a module in `lora2.exchange` and an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora2.errors import UserError
from lora2.exchange.gguf import export_gguf
from lora2.exchange.lora import export_lora
from lora2.exchange.merged import export_merged
from lora2.exchange.verification import Batch
from lora2.training.loaded_run import SavedRun
from lora2.training.methods.registry import METHODS
from lora2.tuners.base.layer import layers_with


@dataclass(frozen=True)
class ExportRequest:
    """What to write, apart from the run.

    Attributes:
        path: the folder or file.
        batch: rows to compare logits on; None where they have to be made up.
        compact: whether each module has its own rank.
    """

    path: Path
    batch: Batch | None
    compact: bool


@dataclass(frozen=True)
class ExportForm:
    """One form of an adapter for other programs.

    Attributes:
        name: as users write it.
        words: what it is, for the command line.
        place: what is written.
        check: takes the run and the form's name; raises a UserError if the run has no such form.
        write: writes it and prints what was written.
        may_be_compact: whether each module may have its own rank.
    """

    name: str
    words: str
    place: Literal["folder", "file"]
    check: Callable[[SavedRun, str], None]
    write: Callable[[SavedRun, ExportRequest], None]
    may_be_compact: bool = False


def _check_has_factors(run: SavedRun, form: str) -> None:
    if not layers_with(run.model, "default"):
        method = METHODS[run.settings.run.method]
        advice = "its adapter is one already" if method.name == "lora" else "export to merged"
        raise UserError(
            f"to: {form} is for LoRA² and SoRA, not for {method.label}; {advice} "
            f"({run.folder.adapter})."
        )


def _check_merges(run: SavedRun, form: str) -> None:
    run.check_merges()


def _write_lora(run: SavedRun, request: ExportRequest) -> None:
    export = export_lora(
        run.model,
        request.path,
        compact=request.compact,
        batch=request.batch,
        tokenizer=run.tokenizer,
    )
    ranks = sorted(export.ranks.values())
    span = f"ranks {ranks[0]} to {ranks[-1]}"
    print(f"LoRA of {len(ranks)} modules, {span}, written to {request.path}")
    _print_difference(export.difference)
    for engine, objections in export.objections.items():
        print(f"{engine}: " + (f"no, {'; '.join(objections)}" if objections else "will serve it"))


def _write_merged(run: SavedRun, request: ExportRequest) -> None:
    export = export_merged(run.model, request.path, batch=request.batch, tokenizer=run.tokenizer)
    print(f"Merged model written to {request.path}")
    _print_difference(export.difference)


def _write_gguf(run: SavedRun, request: ExportRequest) -> None:
    export = export_gguf(run.model, request.path, batch=request.batch)
    print(f"GGUF adapter of rank {export.rank} written to {request.path}")
    _print_difference(export.difference)


def _print_difference(difference: float) -> None:
    print(f"Read back, its logits differ from the adapter's by {difference:.1e} of the largest")


_FORMS = (
    ExportForm(
        "lora",
        "a LoRA in PEFT's format, for PEFT, vLLM, SGLang and others",
        "folder",
        _check_has_factors,
        _write_lora,
        may_be_compact=True,
    ),
    ExportForm(
        "merged",
        "a transformers checkpoint with the adapter in its weights",
        "folder",
        _check_merges,
        _write_merged,
    ),
    ExportForm("gguf", "a LoRA for llama.cpp", "file", _check_has_factors, _write_gguf),
)

EXPORT_FORMS = {form.name: form for form in _FORMS}
"""By name."""
