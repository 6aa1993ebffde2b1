"""The forms of `lora2 export`: a new one is a function that writes it and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora2.errors import UserError
from lora2.exchange.from_lora import import_lora
from lora2.exchange.gguf import export_gguf
from lora2.exchange.lora import export_lora
from lora2.exchange.merged import export_merged
from lora2.exchange.verification import Batch
from lora2.training.methods.registry import METHODS
from lora2.training.saved_run import SavedRun
from lora2.tuners.base.layer import layers_with
from lora2.tuners.lora2.truncation import truncate_adapter


@dataclass(frozen=True)
class ExportForm:
    """One form.

    Attributes:
        words: what it is, for the command line.
        written: "folder" or "file".
        check: raises a UserError if a run has no such form.
        write: writes it, given the run, the place, rows to compare on or None, and whether each
            module is to have its own rank; returns a line about it for each fact, and the largest
            difference of the logits read back.
        has_compact: whether each module may have its own rank.
    """

    words: str
    written: str
    check: Callable[[SavedRun, str], None]
    write: Callable[[SavedRun, Path, Batch | None, bool], tuple[list[str], float]]
    has_compact: bool = False


@dataclass(frozen=True)
class Cut:
    """How far a run's adapter is cut before it is exported; one of the two is given.

    Attributes:
        rank: singular values to keep, on average over the matrices.
        size: parameters to keep at most; below 1, a share.
    """

    rank: float | None = None
    size: float | None = None

    def __bool__(self) -> bool:
        return self.rank is not None or self.size is not None


def cut_run(run: SavedRun, cut: Cut) -> tuple[SavedRun, list[str]]:
    """Return a run with its adapter cut, and what to say of it.

    Raises:
        UserError: an adapter that is no low-rank change, or a number out of its range.
    """
    method = METHODS[run.settings.run.method]
    model = run.model
    if method.name in ("lora", "adalora"):
        # As LoRA² it is the same change, exactly, and can be cut.
        base = run.model.unload()
        model = import_lora(base, run.folder.adapter).eval()
    elif method.name != "lora2":
        option = "rank" if cut.rank is not None else "size"
        raise UserError(
            f"{option}: {method.label} has no singular values to cut; leave {option} out."
        )
    done = truncate_adapter(model, rank=cut.rank, size=cut.size)
    worst = max(done.errors, key=done.errors.__getitem__)
    said = [
        f"Kept {sum(done.ranks.values()):,} singular values of {len(done.ranks)} matrices, "
        f"{done.parameters:,} parameters as a LoRA",
        f"Left out {100 * done.error:.2f} % of the change in all, at most "
        f"{100 * done.errors[worst]:.2f} % ({worst})",
    ]
    return replace(run, model=model), said


def _check_low_rank(run: SavedRun, name: str) -> None:
    if layers_with(run.model, "default"):
        return
    method = METHODS[run.settings.run.method]
    advice = "its adapter is one already" if method.name == "lora" else "export to merged"
    raise UserError(
        f"to: {name} is for LoRA² and SoRA, not for {method.label}; {advice} "
        f"({run.folder.adapter})."
    )


def _check_merges(run: SavedRun, name: str) -> None:
    run.check_merges()


def _lora(
    run: SavedRun, output: Path, batch: Batch | None, compact: bool
) -> tuple[list[str], float]:
    export = export_lora(run.model, output, compact=compact, batch=batch, tokenizer=run.tokenizer)
    ranks = sorted(export.ranks.values())
    said = [f"LoRA of {len(ranks)} modules, ranks {ranks[0]} to {ranks[-1]}, written to {output}"]
    for engine, objections in export.objections.items():
        said.append(
            f"{engine}: " + (f"no, {'; '.join(objections)}" if objections else "will serve it")
        )
    return said, export.difference


def _merged(
    run: SavedRun, output: Path, batch: Batch | None, compact: bool
) -> tuple[list[str], float]:
    export = export_merged(run.model, output, batch=batch, tokenizer=run.tokenizer)
    return [f"Merged model written to {output}"], export.difference


def _gguf(
    run: SavedRun, output: Path, batch: Batch | None, compact: bool
) -> tuple[list[str], float]:
    export = export_gguf(run.model, output, batch=batch)
    return [f"GGUF adapter of rank {export.rank} written to {output}"], export.difference


EXPORT_FORMS: Mapping[str, ExportForm] = {
    "lora": ExportForm(
        "a LoRA in PEFT's format, for PEFT, vLLM, SGLang and others",
        "folder",
        _check_low_rank,
        _lora,
        has_compact=True,
    ),
    "merged": ExportForm(
        "a transformers checkpoint with the adapter in its weights",
        "folder",
        _check_merges,
        _merged,
    ),
    "gguf": ExportForm("a LoRA for llama.cpp", "file", _check_low_rank, _gguf),
}
