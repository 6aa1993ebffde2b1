"""`lora2 import`: a trained LoRA or AdaLoRA adapter as one of LoRA²."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import TaskType
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS

from lora2.commands.option_parser import OptionParser
from lora2.commands.option_values import NUMBERS, or_none
from lora2.commands.run_options import add_model, add_new_path
from lora2.errors import UserError
from lora2.exchange.from_lora import import_lora, importable_config, load_source
from lora2.exchange.verification import checked_difference, logits, sample_batch, tolerance_of
from lora2.support.files import check_is_new, new_folder
from lora2.support.ranges import Range, check_number
from lora2.training.base_models.models import (
    TEXT_LABELS,
    WORD_LABELS,
    load_base_model,
    load_config,
    load_language_model,
)
from lora2.training.base_models.new_tokens import grow_vocabulary, rows_to_add, tokenizer_of
from lora2.training.methods.whole_modules import HEADS
from lora2.training.quiet import quiet_loading
from lora2.tuners.base.loading import find_adapter, saved_tensors
from lora2.tuners.base.names.peft_names import ROWS

_HEADS = tuple(f"{head}{last}.weight" for head in HEADS for last in ("", ".out_proj"))
_LABELLED = {kind.task_type: kind for kind in (TEXT_LABELS, WORD_LABELS)}


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if options.target_r is not None:
        check_number("target_r", options.target_r, Range(0, open=True))
    check_is_new(options.output)
    folder = find_adapter(options.adapter, "adapter")
    config = importable_config(folder)
    with quiet_loading():
        name = options.model or config.base_model_name_or_path
        base = _base_model(config, folder, name)
        # Otherwise the rows of added tokens would have no place, and no tokens.
        tokenizer = tokenizer_of(folder) if getattr(config, ROWS, None) else None
        if tokenizer is not None:
            grow_vocabulary(base, len(tokenizer))
        source = load_source(base, folder)
        batch = sample_batch(source)
        expected = logits(source, batch)
        model = import_lora(base, folder, target_r=options.target_r)
        difference = checked_difference(expected, logits(model.eval(), batch), tolerance_of(model))
        with new_folder(options.output) as temporary:
            if tokenizer is None:
                model.save_pretrained(str(temporary))
            else:
                # The rows are in the adapter, so that the embedding need not be.
                model.save_pretrained(str(temporary), save_embedding_layers=False)
                tokenizer.save_pretrained(temporary)
    adapter = model.peft_config["default"]
    print(f"LoRA² adapter of k = {adapter.k} written to {options.output}")
    needed = None if tokenizer is None else rows_to_add(model.get_base_model(), name)
    if needed is not None:
        print(needed)
    print(f"Its logits differ from those of {folder} by {difference:.1e} of the largest")
    return 0


def _base_model(config: Any, folder: Path, name: str | None) -> Any:
    if name is None:
        raise UserError("model: the adapter does not say what its base model is; give --model.")
    kind = _LABELLED.get(config.task_type)
    if kind is not None:
        labels = load_config(name, num_labels=_labels(folder))
        return load_base_model(name, labels, "float32", kind).model
    if config.task_type not in (None, TaskType.CAUSAL_LM):
        raise UserError(
            f"adapter: {folder} is for {config.task_type}, and this command loads models for "
            "SEQ_CLS, TOKEN_CLS and CAUSAL_LM alone; load the model in Python and call "
            "lora2.import_lora(model, folder)."
        )
    return load_language_model(name, "float32").model


def _labels(folder: Path) -> int:
    """Return the number of outputs of the head that was saved with the adapter."""
    for name, shape in saved_tensors(folder / WEIGHTS).items():
        if name.endswith(_HEADS) and shape:
            return shape[0]
    raise UserError(f"adapter: {folder} is of a classifier but holds no head.")


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 import",
        description="Turn a trained LoRA or AdaLoRA adapter of PEFT into one of LoRA² that "
        "computes the same, k and r being its rank, so that training can continue with pruning.",
    )
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="its folder, or a run's")
    add_new_path(parser)
    add_model(parser, "its base model, if it has moved")
    parser.add_argument(
        "--target_r",
        type=or_none(NUMBERS[float]),
        help="singular values a matrix is to keep when training continues",
    )
    return parser
