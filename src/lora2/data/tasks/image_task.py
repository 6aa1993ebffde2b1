"""ImageTask: images, each of which has a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from lora2.data.tasks.task import LABEL_COLUMN, Task
from lora2.support.extras import require

if TYPE_CHECKING:
    from datasets import Dataset

KIND = "images"
"""The `kind` of such a task in task.json, in place of classification or regression."""

EXTRA = "images"
"""The extra of lora2 that installs what decodes them."""

IMAGE_COLUMN = "image"


class StoredImage(TypedDict):
    """An image as `datasets.Image` stores it: its content, or else the path of its file.

    Next to content, `path` is where the user's table has it, in words.
    """

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True, kw_only=True)
class ImageTask(Task):
    """A task of images: sets with columns `image` (as stored) and `label` (index of a class).

    Attributes:
        image_column: the column of the *source* with images.
        label_column: the column of the source with classes.
        label_names: one name per class, in the order of the model's outputs.
    """

    kind: ClassVar[str] = KIND
    described: ClassVar[Mapping[str, Any]] = {
        **Task.described,
        "kind": str,
        "image_column": str,
        "label_column": str,
        "label_names": list[str],
    }

    image_column: str
    label_column: str
    label_names: tuple[str, ...]


def build_images(images: Sequence[StoredImage], labels: Sequence[int] | None = None) -> Dataset:
    """Make an in-memory Dataset of images, not decoded, and, if given, classes."""
    datasets = require("datasets", extra="train")
    columns: dict[str, Any] = {IMAGE_COLUMN: images}
    types: dict[str, Any] = {
        # The type is not datasets.Image, which needs Pillow even where no image is decoded.
        IMAGE_COLUMN: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    }
    if labels is not None:
        columns[LABEL_COLUMN] = labels
        types[LABEL_COLUMN] = datasets.Value("int64")
    dataset: Dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(types))
    return dataset
