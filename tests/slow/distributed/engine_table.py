"""Forks the engines' gloo processes, and makes a table of what each of them does.

A cell is "yes", or a word or sentence for why not.
"""

import json
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from forked_commands import ForkedCommands

sys.path.insert(0, str(Path(__file__).parent))
import engine_run

FORMS = ("exact", "penalty")
# What trains on two processes, and is to end as one process does: each engine in both forms, and
# each of its options in one of them.
CASES = (
    "ddp/exact", "ddp/penalty", "ddp-checkpointed/exact", "ddp-reentrant/penalty",
    "fsdp2/exact", "fsdp2/penalty", "fsdp2-kept/penalty", "fsdp2-root/exact",
    "fsdp2-checkpointed/penalty", "fsdp2-reentrant/exact", "fsdp2-callback/penalty",
    "fsdp2-mixed/exact", "fsdp2-offload/penalty", "tp/exact", "tp/penalty",
)  # fmt: skip
# Weights of experts, and rows of tokens in an embedding that the head shares or not.
OF_OTHER_MODELS = (
    "ddp-qwen3moe/exact", "fsdp2-mixtral/exact", "ddp-tied/exact", "fsdp2-tied/exact",
    "fsdp2-tokens/exact",
)  # fmt: skip
# What is refused: FSDP1, processes whose gradients nobody reduces, NaN in one process, a weight
# that FSDP2 has split before it gets an adapter, a merge into such weights, dropped inputs of which
# each process has a part.
REFUSED = (
    "fsdp1-orig/exact", "fsdp1/exact", "apart/exact", "fsdp2-nan/exact", "fsdp2-late/exact",
    "fsdp2-merge/exact", "tp-dropout/exact",
)  # fmt: skip
# What is resumed by another number of processes.
RESUMED = ("ddp/exact", "fsdp2/penalty", "tp/exact")
# What `tests/engines` has installed.
ZERO = tuple(
    f"{stage}/{form}"
    for stage in ("zero1", "zero2", "zero2-accumulated", "zero3", "zero3-split")
    for form in FORMS
)
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


def run_all(folder: Path, forked: ForkedCommands) -> None:
    """Train everything: one process, two, four, and resumed from two by four and back."""
    ones = dict.fromkeys(_one(case) for case in (*CASES, *OF_OTHER_MODELS))
    _launch(forked, 1, folder / "1", list(ones))
    _launch(forked, 2, folder / "2", [*CASES, *OF_OTHER_MODELS, *REFUSED])
    _launch(forked, 4, folder / "4", [*RESUMED, *(f"{case}@{folder / '2'}" for case in RESUMED)])
    _launch(forked, 2, folder / "2", [f"{case}@{folder / '4'}" for case in RESUMED])


def run_zero(folder: Path, forked: ForkedCommands) -> None:
    """Train one process and, by DeepSpeed ZeRO, two."""
    _launch(forked, 1, folder / "1", list(dict.fromkeys(_one(case) for case in ZERO)))
    _launch(forked, 2, folder / "2", list(ZERO), DS_ACCELERATOR="cpu")


def table_of_zero(folder: Path) -> dict[str, Row]:
    """Return the rows of DeepSpeed's stages, by stage and form."""
    return {case: _row(folder, case) for case in ZERO}


def table(folder: Path) -> dict[str, Row]:
    """Return the rows of all cases, by engine and form."""
    return {case: _row(folder, case) for case in (*CASES, *OF_OTHER_MODELS, *REFUSED)}


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


def _row(folder: Path, case: str) -> Row:
    own, one = folder / "2" / case, adapter(folder / "1" / _one(case), "adapter-0")
    sentence = refusal(folder, case)
    if sentence is not None:
        return Row(f"refused: {sentence}", *["refused"] * 7)
    mine = adapter(own, "adapter-0")
    moves = [
        _differs(adapter(folder / processes / "resumed" / case, "adapter-0"), one)
        if case in RESUMED
        else "not run"
        for processes in ("4", "2")
    ]
    mixed = "mixed" in case
    return Row(
        _yes(_equal(mine, adapter(own, "adapter-1")), "ranks differ"),
        _yes(_kept(mine) == _kept(one), "bfloat16" if mixed else "another set"),
        "bfloat16" if mixed else _differs(mine, one),
        "bfloat16" if mixed else _differs_from_logits(own, case, merged=False),
        "bfloat16" if mixed else _differs_from_logits(own, case, merged=True),
        _yes(_equal(mine, adapter(own, "again-0")), "differs"),
        *moves,
    )


def _one(case: str) -> str:
    """Return the case of one process that trains the same model."""
    engine, form = case.split("/")
    name = engine_run.model_named(engine)
    return f"one/{form}" if name == "llama" else f"one-{name}/{form}"


def _launch(
    forked: ForkedCommands, processes: int, folder: Path, cases: list[str], **environment: str
) -> None:
    folder.mkdir(exist_ok=True)
    done = forked.call(
        [str(folder), *cases], folder,
        processes=processes, program=str(engine_run.__file__), seconds=600,
        environment=environment,
    )  # fmt: skip
    if done.code:
        raise RuntimeError(f"{processes} processes: {done.errors[-4000:]}")


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
def _differs_from_logits(own: Path, case: str, *, merged: bool) -> str:
    base = engine_run.base_model(case.split("/")[0])
    model = PeftModel.from_pretrained(base, str(own / "saved")).eval()
    with torch.no_grad():
        actual = engine_run.logits(model.merge_and_unload() if merged else model)
    most = float((actual - adapter(own, "logits")["logits"]).abs().max())
    return _yes(most < _TOLERANCE, f"by {most:.1e}")
