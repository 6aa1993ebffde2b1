"""Exports an adapter as a LoRA in PEFT's format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import save_file
from torch import OutOfMemoryError, Tensor

from lora2.errors import UserError
from lora2.exchange.engines import ENGINES, objections
from lora2.exchange.export_arguments import check_batch, check_is_in_memory, check_tokenizer
from lora2.exchange.lora_form import LoraForm, lora_form
from lora2.exchange.model_card.file import write_lora_card
from lora2.exchange.verification import (
    TOLERANCES,
    Batch,
    adapter_logits,
    check_changes,
    checked_difference,
    logits,
    tolerance_of,
)
from lora2.support.error_text import one_line, reason_of
from lora2.support.files import as_path, check_is_new, new_folder
from lora2.tuners.base.layers.attention import AttentionLayer
from lora2.tuners.base.layers.convolution import ConvolutionLayer
from lora2.tuners.base.layers.finding import adapted_layers
from lora2.tuners.base.names.peft_names import target_of


@dataclass(frozen=True)
class LoraExport:
    """What was written.

    Attributes:
        path: the folder.
        ranks: rank of the change by name of the module.
        difference: largest difference of the logits, as a share of the largest logit.
        objections: by name of an engine, why it will not serve the adapter; empty if it will.
        left_out: names of the modules that change nothing, of which a compact LoRA has nothing.
    """

    path: Path
    ranks: dict[str, int]
    difference: float
    objections: dict[str, list[str]]
    left_out: frozenset[str] = frozenset()


def export_lora(
    model: PeftModel,
    path: Path | str,
    *,
    adapter_name: str = "default",
    compact: bool = False,
    dtype: torch.dtype = torch.float32,
    batch: Batch | None = None,
    tokenizer: Any = None,
) -> LoraExport:
    """Write an adapter of LoRA² or SoRA as a LoRA that PEFT, vLLM, SGLang and llama.cpp read.

    The change is the same, not an approximation. By default all modules have one rank, the largest
    that is needed, padded with zeros; `compact` gives each its own, which not every engine reads.
    The folder appears only when the LoRA, read back from it, has been found to compute the same on
    `batch` (inputs of the model, made up if there are none). The model stays as it is.

    Returns:
        The ranks, the largest difference of the logits, and which engines will not serve it.

    Raises:
        UserError: the folder exists, a dtype of no LoRA, the adapter has no form as one, inputs
            cannot be made up, or the check failed.
        NumericalError: NaN or infinity in the adapter or in what the model computes.
    """
    path = as_path(path)
    check_is_new(path, name="path")
    check_tokenizer(tokenizer)
    check_batch(batch)
    if dtype not in TOLERANCES:
        raise UserError(f"dtype={dtype!r}: write one of {', '.join(map(str, TOLERANCES))}.")
    form = lora_form(model, adapter_name, compact=compact, dtype=dtype)
    check_is_in_memory(model)
    expected, batch, base = adapter_logits(model, adapter_name, batch)
    with new_folder(path, name="path") as temporary:
        write_lora(form, temporary)
        write_lora_card(model, adapter_name, temporary, form.ranks)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        # PEFT warns of layers that its LoRA cannot merge, which is not asked of it here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reloaded = _read_back(base, temporary)
        check_changes(model, adapter_name, reloaded, dtype)
        tolerance = tolerance_of(model, dtype)
        with _naming_layers(model, adapter_name):
            difference = checked_difference(expected, _computed(reloaded, batch), tolerance)
    shapes = {name: tuple(tensor.shape) for name, tensor in form.tensors.items()}
    found = {e.name: objections(e, form.config.to_dict(), shapes) for e in ENGINES}
    return LoraExport(path, form.ranks, difference, found, form.left_out)


def _read_back(base: Any, folder: Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(base, str(folder)).eval()
    except (TypeError, ValueError) as error:
        # PEFT makes convolutions of the base layer's class, which may take other arguments.
        raise UserError(
            f"to: PEFT's LoRA cannot be put on a {type(base).__name__} where this adapter is "
            f"({one_line(error)}); export the merged model in place of a LoRA."
        ) from error


@contextmanager
def _naming_layers(model: PeftModel, adapter_name: str) -> Iterator[None]:
    """Say of a LoRA that computes something else which layers PEFT treats otherwise."""
    try:
        yield
    except UserError as error:
        layers = adapted_layers(model.get_base_model(), adapter_name)
        attention = [name for name, layer in layers.items() if isinstance(layer, AttentionLayer)]
        own = {
            name: type(layer.get_base_layer()).__name__
            for name, layer in layers.items()
            if isinstance(layer, ConvolutionLayer) and layer.has_own_forward
        }
        if attention:
            raise UserError(
                f"PEFT {peft.__version__} adds the change of an nn.MultiheadAttention's out_proj "
                f"twice (pull request 3774 of PEFT), so a LoRA of {target_of(attention[0])} would "
                "compute something else and was not kept; export the merged model instead."
            ) from error
        if own:
            name, kind = next(iter(own.items()))
            raise UserError(
                f"A {kind} has a forward of its own, which PEFT's LoRA calls for A and for B "
                f"alone, so a LoRA of {name} would compute something else and was not kept; export "
                "the merged model instead."
            ) from error
        raise


def _computed(reloaded: PeftModel, batch: Batch) -> Tensor:
    try:
        return logits(reloaded, batch)
    except (UserError, OutOfMemoryError):
        raise
    except (AttributeError, RuntimeError, TypeError, ValueError, IndexError) as error:
        # Some models read attributes of a router, which PEFT 0.21.0 does not pass on; and a
        # convolution with a forward of its own may give A and B outputs of other sizes.
        raise UserError(
            f"to: a {type(reloaded.get_base_model()).__name__} does not compute with PEFT's LoRA "
            f"where this adapter is ({reason_of(error)}); export the merged model (--to merged) in "
            "place of a LoRA."
        ) from error


def write_lora(form: LoraForm, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json into an existing folder."""
    save_file(form.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    form.config.save_pretrained(str(folder))
