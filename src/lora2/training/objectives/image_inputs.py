"""Images as a model reads them, and what is wrong with those that it cannot read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lora2.data.own.images import decoded, name_of, upright_size
from lora2.data.tasks.image_task import IMAGE_COLUMN
from lora2.data.tasks.task import LABEL_COLUMN
from lora2.errors import UserError
from lora2.support.error_text import clause_of, in_one_sentence
from lora2.support.evaluation_mode import in_evaluation
from lora2.tuners.base.distributed.zero import is_partitioned

if TYPE_CHECKING:
    from datasets import Dataset

_COLUMN = "image_column"
_FILE = "preprocessor_config.json"


def inputs_of(processor: Any, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return pixels [rows, 3, height, width] of images, and their classes where they are known."""
    images = [decoded(image) for image in rows[IMAGE_COLUMN]]
    inputs = {"pixel_values": processor(images, return_tensors="pt")["pixel_values"]}
    return inputs | ({"labels": rows[LABEL_COLUMN]} if LABEL_COLUMN in rows else {})


def check_one_size(processor: Any, sets: Mapping[str, Dataset]) -> Tensor:
    """Check that a processor gives all images one size, which a batch needs.

    What it gives depends on the size of an image, so that it makes pixels of one image of each.

    Returns:
        The first image, [1, 3, height, width].

    Raises:
        UserError: naming the first image that differs, or that it refuses.
    """
    first, named_first = None, ""
    seen = set()
    for name, rows in sets.items():
        # One row after the other: a column may hold the content of all images.
        for row, each in enumerate(rows):
            image = each[IMAGE_COLUMN]
            size = upright_size(image)
            if size in seen:
                continue
            seen.add(size)
            named = name_of(image, f"image {row + 1} of {name}")
            with in_one_sentence(
                f"{_COLUMN}: the image processor of {_FILE} refuses {named}",
                "correct that file, or change or remove the image",
            ):
                pixels: Tensor = inputs_of(processor, rows[row : row + 1])["pixel_values"]
            if first is None:
                first, named_first = pixels, named
            elif pixels.shape != first.shape:
                raise UserError(
                    f"{_COLUMN}: of {named} {_FILE} makes {_numbers(pixels)} numbers, and of "
                    f"{named_first} {_numbers(first)}, which no batch can hold together; write one "
                    "height and width, or a crop, into that file, or give images of one size."
                )
    assert first is not None
    return first


def refused_by(model: PreTrainedModel, pixels: Tensor) -> str | None:
    """Return why a model does not read an image [1, 3, height, width]; None if it does.

    No configuration says so: some models read the size that it names alone, others read every size.
    """
    # A model without weights, or with weights split over processes, cannot be called here.
    if any(weight.is_meta or is_partitioned(weight) for weight in model.parameters()):
        return None
    try:
        with in_evaluation(model), torch.no_grad():
            model(pixel_values=pixels.to(model.device, model.dtype))
    except (ValueError, RuntimeError, AssertionError) as error:
        return f"images of {_numbers(pixels)} numbers, which its {_FILE} makes ({clause_of(error)})"
    return None


def _numbers(pixels: Tensor) -> str:
    return " × ".join(map(str, pixels.shape[1:]))
