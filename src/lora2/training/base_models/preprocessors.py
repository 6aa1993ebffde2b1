"""Loads what makes inputs of rows: the tokenizer of texts, the image processor of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from transformers import AutoImageProcessor, AutoTokenizer

from lora2.data.tasks.image_task import EXTRA
from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.support.extras import require
from lora2.support.field_types import fits, shortened
from lora2.training.base_models.loading_errors import as_user_error
from lora2.training.base_models.sentencepiece_files import naming_packages
from lora2.training.base_models.sources import OWN_CODE, ModelSource, find_model
from lora2.training.quiet import quiet_loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Pillow, numpy and torch raise these for an invalid size.
_REFUSALS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# The width and height of the image that a processor is tried on.
_SIDE = 32


class Preprocessor(Protocol):
    """A tokenizer or an image processor; an objective knows which one its rows need."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write it into a folder, next to a model."""


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, with a padding token; options: of its class.

    Raises:
        UserError: the model has no tokenizer that can be loaded.
    """
    source = find_model(name)
    with quiet_loading(), as_user_error(name, source), naming_packages(name, source):
        tokenizer = AutoTokenizer.from_pretrained(
            source.location, **OWN_CODE, **source.file_option, **options
        )
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # transformers makes an empty tokenizer where it finds no file.
            raise UserError(
                f"model: {name} has no tokenizer, or an empty one, which reads every word as "
                "unknown; add its tokenizer.json."
            )
    if not fits(tokenizer.model_max_length, float):
        raise UserError(
            f"model: model_max_length in the tokenizer_config.json of {name} is "
            f"{shortened(tokenizer.model_max_length)}, and must be a number."
        )
    if tokenizer.pad_token is None:
        # Decoders are trained without one; what is at padded places is masked anyway.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(f"model: the tokenizer of {name} has neither a padding nor an end token.")
    return tokenizer


def load_image_processor(name: str) -> Any:
    """Return the image processor of a model.

    Raises:
        UserError: the model has none that can be loaded.
    """
    source = find_model(name)
    _check_reads_images(name, source)
    with quiet_loading(), as_user_error(name, source):
        processor = AutoImageProcessor.from_pretrained(source.location, **OWN_CODE)
    _check_processes(processor, name)
    return processor


def _check_reads_images(name: str, source: ModelSource) -> None:
    """Check that the folder of a model says how it reads images; of a hub name there is no check.

    Raises:
        UserError: it does not.
    """
    folder, file = Path(source.location), "preprocessor_config.json"
    if folder.is_dir() and not (folder / file).is_file():
        raise UserError(
            f"model: {name} has no {file}, so nothing says how it reads images; give the folder or "
            "hub name of a model that reads images, such as google/vit-base-patch16-224."
        )


def _check_processes(processor: Any, name: str) -> None:
    """Check that an image processor makes pixels of an image, which its values alone do not tell.

    Raises:
        UserError: it does not.
    """
    image = require("PIL.Image", extra=EXTRA).new("RGB", (_SIDE, _SIDE))
    try:
        processor(images=image, return_tensors="pt")
    except _REFUSALS as error:
        raise UserError(
            f"model: the preprocessor_config.json of {name} has values that no image can be "
            f"processed with ({clause_of(error)}); correct it, or copy it from the model again."
        ) from error
