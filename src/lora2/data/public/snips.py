"""SNIPS: queries to a voice assistant, to be written as intent and slots in JSON.

"Play some 1959 songs on Iheart" → {"intent": "PlayMusic", "year": "1959", "service": "Iheart"}.
The queries are those of Coucke et al. 2018 (arXiv 1805.10190, CC0), as JSON lines with `prompt` and
`completion` in `train.jsonl` and `validation.jsonl`. All trainings of one number of rows and one
seed have the same rows, so that methods can be compared on a part of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora2.data.builtin.drawing import Split, generator_of
from lora2.data.own.text_rows import read_rows
from lora2.data.tables.files import read_table
from lora2.data.tasks.writing_task import Form
from lora2.errors import UserError

SYSTEM = "Write intent and slots as JSON."
"""The system message of every row; without one, SmolLM2's template puts a longer one there."""

_FORM: Form = "prompt_completion"
_COLUMNS = ("prompt", "completion")
_FOLDER = "snips"


def snips_pairs(
    data_dir: Path | str, split: Split, rows: int, seed: int = 0
) -> list[tuple[str, str]]:
    """Return `rows` queries of one split, each with its right answer, drawn by the seed.

    Args:
        data_dir: the folder of the two files, or the one that holds it as `snips`.
        split: train or validation.
        rows: how many to draw.
        seed: draws them.

    Raises:
        UserError: a file that is missing or holds something else, or fewer rows than asked for.
    """
    path = _file_of(Path(data_dir), split)
    found: list[dict[str, Any]] = read_rows(read_table(path), _FORM, _COLUMNS)
    if not 1 <= rows <= len(found):
        raise UserError(
            f"{split}_rows: got {rows}; write a number from 1 to {len(found):,}, the rows of "
            f"{path}."
        )
    if not all(isinstance(value, str) for row in found for value in row.values()):
        raise UserError(
            f"data_dir: {path} holds messages where queries and answers are expected as texts; "
            "give it as --train_file."
        )
    drawn = generator_of("snips", split, seed).sample(found, rows)
    return [(row["prompt"], row["completion"]) for row in drawn]


def _file_of(data_dir: Path, split: Split) -> Path:
    for folder in (data_dir / _FOLDER, data_dir):
        if (folder / f"{split}.jsonl").is_file():
            return folder / f"{split}.jsonl"
    raise UserError(
        f"data_dir: there is no {_FOLDER}/{split}.jsonl nor {split}.jsonl in {data_dir}; give the "
        f"folder that holds {_FOLDER}, or {_FOLDER} itself."
    )
