"""Exports a model with the adapter in its weights: a transformers checkpoint of its own."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import OutOfMemoryError
from transformers import AutoTokenizer, PreTrainedModel

from lora2.errors import NumericalError, UserError
from lora2.exchange.export_arguments import check_batch, check_is_in_memory, check_tokenizer
from lora2.exchange.lora_form import check_is_peft_model
from lora2.exchange.verification import (
    Batch,
    checked_difference,
    logits,
    sample_batch,
    tolerance_of,
)
from lora2.support.error_text import clause_of, reason_of
from lora2.support.files import as_path, check_is_new, new_folder
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.finite_checks import naming_merged_layer
from lora2.tuners.base.model.tied_weights import untying_broken_ties
from lora2.tuners.base.modules_to_save import modules_trained_whole

# A shard is held twice while it is written: a twentieth of the model, but no more files than that.
_SHARDS = 20
_SMALLEST_SHARD = 50_000_000


@dataclass(frozen=True)
class MergedExport:
    """What was written.

    Attributes:
        path: the folder.
        model: the merged model, read back from there.
        difference: largest difference of the logits, as a share of the largest logit.
    """

    path: Path
    model: Any
    difference: float


@torch.no_grad()
def export_merged(
    model: PeftModel, path: Path | str, *, batch: Batch | None = None, tokenizer: Any = None
) -> MergedExport:
    """Write a standalone checkpoint: sharded safetensors, tokenizer, generation config.

    Merges layer by layer within the given model and releases its weights once they are on disk,
    so that memory stays near one copy of the model; use the `model` that is returned, which
    was read back and found to compute the same on `batch`. The folder appears only then. Merged
    logits are compared before anything is given up, and the model is unmerged if they differ.

    The tokenizer is the given one, else that of the folder or hub name that the base model was
    loaded from, where it is here; a warning says so if there is none.

    Raises:
        UserError: the folder exists, a layer cannot be merged, inputs cannot be made up, or the
            logits differ.
        NumericalError: the model computes NaN or infinity, or a merged weight would hold them.
    """
    path = as_path(path)
    check_is_new(path, name="path")
    check_is_peft_model(model)
    if not isinstance(model.get_base_model(), PreTrainedModel):
        raise UserError(
            f"model: a {type(model.get_base_model()).__name__} is no model of transformers; merge "
            "it with merge_and_unload, and save it as it is saved."
        )
    check_is_in_memory(model)
    _check_can_be_saved(model)
    check_tokenizer(tokenizer)
    check_batch(batch)
    model.eval()
    batch = sample_batch(model) if batch is None else batch
    expected, tolerance = logits(model, batch), tolerance_of(model)
    try:
        with naming_merged_layer(model):
            model.merge_adapter(safe_merge=True)
        checked_difference(expected, logits(model, batch), tolerance)
    except Exception as error:
        # The adapters can still be unmerged here; a failed merge has come to some layers only.
        for layer in model.modules():
            if isinstance(layer, BaseTunerLayer) and layer.merged:
                layer.unmerge()
        _raise_in_one_sentence(model, error)
        raise
    # A merge by a method of PEFT breaks ties, too.
    with warnings.catch_warnings(), untying_broken_ties(model.get_base_model()):
        # PEFT warns that all is merged already.
        warnings.simplefilter("ignore")
        _put_in_whole_modules(model)
        merged: Any = model.merge_and_unload()
    kind, device = type(merged), merged.device
    size = sum(p.numel() * p.element_size() for p in merged.parameters())
    with _saying_what_is_lost(path), new_folder(path, name="path") as temporary:
        merged.save_pretrained(temporary, max_shard_size=max(size // _SHARDS, _SMALLEST_SHARD))
        tokenizer = _tokenizer_of(merged) if tokenizer is None else tokenizer
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        # The second copy comes when the first is gone.
        merged.to("meta")
        gc.collect()
        reloaded = kind.from_pretrained(temporary, dtype="auto").to(device).eval()
        difference = checked_difference(expected, logits(reloaded, batch), tolerance)
    return MergedExport(path, reloaded, difference)


@contextmanager
def _saying_what_is_lost(path: Path) -> Iterator[None]:
    """Say of an error that the model has been merged for nothing."""
    lost = "The model in memory was merged for it and has no adapter any longer: load both again."
    try:
        yield
    except OSError as error:
        raise UserError(f"output: {path} cannot be written ({reason_of(error)}). {lost}") from error
    except (UserError, NumericalError) as error:
        raise type(error)(f"{error} {lost}") from error


def _put_in_whole_modules(model: PeftModel) -> None:
    """Put what is trained whole in its place: PEFT 0.21 takes it for a layer with one weight."""
    base = model.get_base_model()
    # A list, because the loop replaces modules.
    for name, wrapper in list(modules_trained_whole(base)):
        outer, _, own = name.rpartition(".")
        trained = wrapper.unload_and_optionally_merge_module(
            merge=True, safe_merge=False, adapter_names=None
        )
        setattr(base.get_submodule(outer), own, trained)


def _check_can_be_saved(model: PeftModel) -> None:
    """Check what would be found out only when the model has been given up.

    Raises:
        UserError: its adapters are disabled, or its generation config cannot be written.
    """
    layers = [each for each in model.modules() if isinstance(each, BaseTunerLayer)]
    if any(layer.disable_adapters for layer in layers):
        raise UserError(
            "model: its adapters are disabled, so there is nothing to merge; call "
            "model.base_model.enable_adapter_layers() before the export."
        )
    generation = getattr(model.get_base_model(), "generation_config", None)
    if generation is not None:
        try:
            generation.validate(strict=True)
        except ValueError as error:
            reason = clause_of(error)
            raise UserError(
                f"model: transformers does not write its generation_config ({reason}); correct it "
                "before the export."
            ) from error


def _raise_in_one_sentence(model: PeftModel, error: Exception) -> None:
    """Raise in one sentence what a method of PEFT raises where it cannot merge a layer.

    Raises:
        UserError: the method is PEFT's, and the error none that says already what is wrong.
    """
    config = model.peft_config[model.active_adapter]
    is_one_sentence = isinstance(error, UserError | NumericalError | OutOfMemoryError)
    if not is_one_sentence and not isinstance(config, TargetConfig):
        raise UserError(
            f"model: PEFT cannot merge {config.peft_type.value} into this model "
            f"({reason_of(error)}); load the adapter on its base model."
        ) from error


def _tokenizer_of(model: PreTrainedModel) -> Any:
    """Return the tokenizer of what a model was loaded from, None with a warning if there is none.

    Nothing is downloaded: a hub name's tokenizer is taken if it is in the cache.
    """
    if model.main_input_name != "input_ids":
        return None
    name = model.config.name_or_path
    with suppress(Exception):  # transformers raises what it likes where a tokenizer is missing
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True) if name else None
        # An empty one is made where there is no file.
        if tokenizer is not None and len(tokenizer) > len(tokenizer.all_special_ids):
            return tokenizer
    warnings.warn(
        "The merged checkpoint has no tokenizer, since "
        + (f"none is found at {name}" if name else "the base model was not loaded from a folder")
        + ": pass tokenizer= to export_merged, or save one into the folder.",
        stacklevel=4,  # of the caller, above torch.no_grad's function
    )
    return None
