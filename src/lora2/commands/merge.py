"""`lora2 merge`: a standalone model with the adapter in its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lora2.commands.evaluate import add_run_options
from lora2.commands.parser import OptionParser
from lora2.data.task import build_dataset
from lora2.errors import UserError
from lora2.training.models import quiet_loading
from lora2.training.objectives.registry import objective_of
from lora2.training.run_folder import new_folder
from lora2.training.saved_run import SavedRun, load_saved_run

# Any texts would do: what is compared is two forms of one model.
_SAMPLES = (
    "The keys to the cabinet are here.",
    "A model.",
    "Nobody knows what 1 + 1 makes, do they?",
)

# Largest difference between merged and adapted logits, relative to the largest logit: a merged
# weight is rounded once to its dtype.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    parser = OptionParser(
        prog="lora2 merge",
        description="Write the model of a run as a transformers checkpoint of its own.",
    )
    add_run_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    options = parser.parse_args(list(arguments))
    if options.output.exists() and (not options.output.is_dir() or any(options.output.iterdir())):
        raise UserError(f"output: {options.output} exists already; give another folder.")
    run = load_saved_run(options.run, options.model)
    run.check_merges()
    difference = merge(run, options.output)
    print(f"Merged model written to {options.output}")
    print(f"Read back, its logits differ from the adapter's by {difference:.1e} at most")
    return 0


def merge(run: SavedRun, output: Path) -> float:
    """Write the merged model and return the largest difference of its logits from the adapter's.

    The folder appears only when the model, read back from it, has been found to agree.

    Raises:
        UserError: the merged model computes something else.
    """
    batch = _sample_batch(run)
    with torch.no_grad():
        expected = run.model(**batch).logits
        merged = run.model.merge_and_unload(safe_merge=True)
    with new_folder(output) as temporary, quiet_loading():
        merged.save_pretrained(temporary)
        run.tokenizer.save_pretrained(temporary)
        difference = _largest_difference(run, temporary, batch, expected)
    return difference


def _sample_batch(run: SavedRun) -> dict[str, Tensor]:
    # A language model reads them one by one.
    columns = [list(_SAMPLES)] * len(run.task.get("text_columns", ("text",)))
    texts = build_dataset(columns, labels=None)
    encoded = run.tokenizer(
        *(list(texts[name]) for name in texts.column_names),
        padding=True,
        truncation=True,
        max_length=run.settings.data.max_length,
        return_tensors="pt",
    )
    return dict(encoded.to(run.model.device))


def _largest_difference(
    run: SavedRun, folder: Path, batch: dict[str, Tensor], expected: Tensor
) -> float:
    model_class = objective_of(run.settings).model_class
    reloaded = model_class.from_pretrained(folder, dtype="auto")
    reloaded.to(expected.device).eval()
    with torch.no_grad():
        difference = float((reloaded(**batch).logits - expected).abs().max())
    allowed = _TOLERANCE[reloaded.dtype] * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise UserError(
            f"The merged model's logits differ from the adapter's by {difference:.1e}, more than "
            f"{allowed:.1e}, so it was not kept: merge in float32."
        )
    return difference
