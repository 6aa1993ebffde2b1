"""Starts the engines on gloo processes, and makes a table of what each of them does.

A cell is "yes", or a word or sentence for why not.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import engine_run

FORMS = ("exact", "penalty")
# What trains on two processes, and is to end as one process does.
ENGINES = (
    "ddp", "ddp-checkpointed", "ddp-reentrant",
    "fsdp2", "fsdp2-kept", "fsdp2-root", "fsdp2-checkpointed", "fsdp2-reentrant", "fsdp2-callback",
    "fsdp2-mixed", "fsdp2-offload", "tp",
)  # fmt: skip
# Weights of experts, and rows of tokens in an embedding that the head shares or not.
OF_OTHER_MODELS = ("ddp-qwen3moe", "fsdp2-mixtral", "ddp-tied", "fsdp2-tied", "fsdp2-tokens")
# What is refused: FSDP1, processes whose gradients nobody reduces, NaN in one process, a weight
# that FSDP2 has split before it gets an adapter, a merge into such weights, dropped inputs of which
# each process has a part.
REFUSED = ("fsdp1-orig", "fsdp1", "apart", "fsdp2-nan", "fsdp2-late", "fsdp2-merge", "tp-dropout")
# What is resumed by another number of processes.
RESUMED = ("ddp", "fsdp2", "tp")
# What `tests/engines` has installed.
ZERO = ("zero1", "zero2", "zero2-accumulated", "zero3", "zero3-split")
_TOLERANCE = 1e-4


class Row(NamedTuple):
    """What one engine does with one form."""

    trains: str
    kept_set_of_one_process: str
    adapter_of_one_process: str
    saved_is_in_memory: str
    merged_is_in_memory: str
    resumed_bit_for_bit: str
    from_2_to_4: str
    from_4_to_2: str


def run_all(folder: Path) -> None:
    """Train everything: one process, two, four, and resumed from two by four and back."""
    every = [f"{engine}/{form}" for engine in ENGINES for form in FORMS]
    refused = [f"{engine}/exact" for engine in REFUSED]
    others = [f"{engine}/exact" for engine in OF_OTHER_MODELS]
    moved = [f"{engine}/{form}" for engine in RESUMED for form in FORMS]
    ones = dict.fromkeys(f"{_one(engine)}/exact" for engine in OF_OTHER_MODELS)
    _launch(1, folder / "1", [*(f"one/{form}" for form in FORMS), *ones])
    _launch(2, folder / "2", [*every, *others, *refused])
    _launch(4, folder / "4", [*moved, *(f"{case}@{folder / '2'}" for case in moved)])
    _launch(2, folder / "2", [f"{case}@{folder / '4'}" for case in moved])


def run_zero(folder: Path) -> None:
    """Train one process and, by DeepSpeed ZeRO, two."""
    _launch(1, folder / "1", [f"one/{form}" for form in FORMS])
    _launch(2, folder / "2", [f"{engine}/{form}" for engine in ZERO for form in FORMS])


def table_of_zero(folder: Path) -> dict[str, Row]:
    """Return the rows of DeepSpeed's stages, by stage and form."""
    return {f"{engine}/{form}": _row(folder, engine, form) for engine in ZERO for form in FORMS}


def table(folder: Path) -> dict[str, Row]:
    """Return the rows of all cases, by engine and form."""
    return {
        f"{engine}/{form}": _row(folder, engine, form)
        for engine in (*ENGINES, *OF_OTHER_MODELS, *REFUSED)
        for form in (FORMS if engine in ENGINES else FORMS[:1])
    }


def as_text(rows: dict[str, Row]) -> str:
    """Return the table, and below it the sentences that are too long for a cell."""
    heads = [name.replace("_", " ") for name in Row._fields]
    widths = [max(len(head), 6) for head in heads]
    lines = [
        f"{'engine/form':<28}" + "  ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True))
    ]
    notes = []
    for case, row in rows.items():
        cells = [
            cell if len(cell) <= width else "see (below)"
            for cell, width in zip(row, widths, strict=True)
        ]
        lines.append(
            f"{case:<28}" + "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True))
        )
        notes += [f"{case}: {cell}" for cell in dict.fromkeys(row) if len(cell) > 20]
    return "\n".join([*lines, "", *notes])


def refusal(folder: Path, case: str, rank: int = 0) -> str | None:
    """Return the sentence with which a process of two was refused."""
    sentence: str | None = json.loads((folder / "2" / case / f"outcome-{rank}.json").read_text())[
        "refusal"
    ]
    return sentence


def adapter(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def _row(folder: Path, engine: str, form: str) -> Row:
    case = f"{engine}/{form}"
    own, one = folder / "2" / case, adapter(folder / "1" / _one(engine) / form, "adapter-0")
    sentence = refusal(folder, case)
    if sentence is not None:
        return Row(f"refused: {sentence}", *["refused"] * 7)
    mine = adapter(own, "adapter-0")
    moves = [
        _differs(adapter(folder / processes / "resumed" / case, "adapter-0"), one)
        if engine in RESUMED
        else ("not run" if engine in (*ZERO, *OF_OTHER_MODELS) else "as fsdp2")
        for processes in ("4", "2")
    ]
    mixed = "mixed" in engine
    return Row(
        _yes(_equal(mine, adapter(own, "adapter-1")), "ranks differ"),
        _yes(_kept(mine) == _kept(one), "bfloat16" if mixed else "another set"),
        "bfloat16" if mixed else _differs(mine, one),
        "bfloat16" if mixed else _differs_from_logits(own, engine, merged=False),
        "bfloat16" if mixed else _differs_from_logits(own, engine, merged=True),
        _yes(_equal(mine, adapter(own, "again-0")), "differs"),
        *moves,
    )


def _one(engine: str) -> str:
    """Return the case of one process that trains the same model."""
    name = engine_run.model_named(engine)
    return "one" if name == "llama" else f"one-{name}"


def _launch(processes: int, folder: Path, cases: list[str]) -> None:
    script = str(Path(engine_run.__file__))
    command = [sys.executable, script, str(processes), str(folder), *cases]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{processes} processes: {done.stderr[-4000:]}")


def _yes(holds: bool, otherwise: str) -> str:
    return "yes" if holds else otherwise


def _equal(mine: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return mine.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in mine.items()
    )


def _kept(state: dict[str, Tensor]) -> dict[str, list[bool]]:
    return {name: (t != 0).tolist() for name, t in state.items() if name.endswith("lora2_lambda")}


def _differs(mine: dict[str, Tensor], one: dict[str, Tensor]) -> str:
    most = max(float((tensor - one[name]).abs().max()) for name, tensor in mine.items())
    return _yes(most < _TOLERANCE, f"by {most:.1e}")


@cache
def _differs_from_logits(own: Path, engine: str, *, merged: bool) -> str:
    model = PeftModel.from_pretrained(engine_run.base_model(engine), str(own / "saved")).eval()
    with torch.no_grad():
        actual = engine_run.logits(model.merge_and_unload() if merged else model)
    most = float((actual - adapter(own, "logits")["logits"]).abs().max())
    return _yes(most < _TOLERANCE, f"by {most:.1e}")
