"""The forms of `lora2 export`: a new one is a function that writes it and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora2.errors import UserError
from lora2.exchange.gguf import export_gguf
from lora2.exchange.lora import export_lora
from lora2.exchange.merged import export_merged
from lora2.exchange.verification import Batch
from lora2.training.base_models.new_tokens import rows_to_add
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.methods.registry import method_of
from lora2.tuners.base.layers.finding import adapted_layers
from lora2.tuners.base.names.peft_names import ROWS


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
    check: Callable[[LoadedRun, str], None]
    write: Callable[[LoadedRun, Path, Batch | None, bool], tuple[list[str], float]]
    has_compact: bool = False


def _check_low_rank(run: LoadedRun, name: str) -> None:
    if adapted_layers(run.model, "default"):
        return
    method = method_of(run.settings)
    advice = "its adapter is one already" if method.as_lora == "is one" else "export to merged"
    raise UserError(
        f"to: {name} is for LoRA² and SoRA, not for {method.label}; {advice} "
        f"({run.folder.adapter})."
    )


def _check_merges(run: LoadedRun, name: str) -> None:
    run.check_merges()


def _lora(
    run: LoadedRun, output: Path, batch: Batch | None, compact: bool
) -> tuple[list[str], float]:
    export = export_lora(
        run.model, output, compact=compact, batch=batch, tokenizer=run.preprocessor
    )
    ranks = sorted(rank for name, rank in export.ranks.items() if name not in export.left_out)
    said = [f"LoRA of {len(ranks)} modules, ranks {ranks[0]} to {ranks[-1]}, written to {output}"]
    if export.left_out:
        said.append(f"Left out: {len(export.left_out)} modules that change nothing")
    if getattr(run.model.peft_config["default"], ROWS, None):
        needed = rows_to_add(run.model.get_base_model(), run.base_model)
        said += [] if needed is None else [needed]
    for engine, objections in export.objections.items():
        said.append(
            f"{engine}: " + (f"no, {'; '.join(objections)}" if objections else "will serve it")
        )
    return said, export.difference


def _merged(
    run: LoadedRun, output: Path, batch: Batch | None, compact: bool
) -> tuple[list[str], float]:
    export = export_merged(run.model, output, batch=batch, tokenizer=run.preprocessor)
    return [f"Merged model written to {output}"], export.difference


def _gguf(
    run: LoadedRun, output: Path, batch: Batch | None, compact: bool
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
