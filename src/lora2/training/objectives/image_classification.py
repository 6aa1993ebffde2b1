"""Classes for images: a new head on a vision model, by transformers' Trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import (
    BatchEncoding,
    TrainingArguments,
    default_data_collator,
)
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.data.loading.images import (
    columns_in,
    load_image_rows,
    load_image_task,
)
from lora2.data.named_tasks import task_names
from lora2.data.own.image_folders import read_image_table
from lora2.data.own.images import read_images, without_content
from lora2.data.tables.table import DataTable
from lora2.data.tables.writing import OutputRow
from lora2.data.tasks.image_task import EXTRA, KIND, ImageTask, build_images
from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.base_models.digits_model import digits_processor, save_digits_model
from lora2.training.base_models.models import IMAGE_LABELS, BaseModel
from lora2.training.base_models.preprocessors import load_image_processor
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.image_inputs import check_one_size, inputs_of, refused_by
from lora2.training.objectives.labelling import HEAD_OPTIONS, HEAD_RECIPE, ToLabel
from lora2.training.objectives.objective import Sets
from lora2.training.objectives.output import IMAGES
from lora2.training.objectives.row_labelling import RowLabelling
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.options.model_arguments import DIGITS_MODEL
from lora2.training.scores.metrics import compute_metrics
from lora2.training.trainer.trainer_arguments import training_arguments

if TYPE_CHECKING:
    from datasets import Dataset


class ImageClassification(RowLabelling):
    """A class for each image."""

    name = "image-classification"
    output = IMAGES
    head_kind = IMAGE_LABELS
    preprocessor = "image processor"
    preprocessor_file = "preprocessor_config.json"
    no_length = "images have no length"
    options = HEAD_OPTIONS | {"image_column"}
    unread: ClassVar[Mapping[str, str]] = {
        "max_length": "which reads images",
        "text_columns": "which reads images; --image_column names their column",
    }
    recipe: ClassVar[Mapping[str, Any]] = {**HEAD_RECIPE, "model": DIGITS_MODEL}

    def check(self, settings: RunSettings) -> None:
        """Need Pillow, a model that reads images, and a method that is not of texts."""
        require("PIL.Image", extra=EXTRA)
        self.refuse_prompts(settings)
        if settings.model.model == DIGITS_MODEL and settings.task not in task_names(self.name):
            raise UserError(
                f"model: {DIGITS_MODEL} reads digits of 8 × 8 pixels alone; add --model with the "
                "folder or hub name of a model that reads images, such as "
                "google/vit-base-patch16-224."
            )

    def load_preprocessor(self, name: str) -> Any:
        """Return the image processor of a model."""
        return digits_processor() if name == DIGITS_MODEL else load_image_processor(name)

    def load_data(self, settings: RunSettings) -> ImageTask:
        """Return the task that the data options name."""
        return load_image_task(**settings.data.for_loader("image_column", "label_column"))

    def announcement(self, settings: RunSettings) -> str | None:
        """Say that the model of digits is made first, which takes its time."""
        makes_base = settings.model.model == DIGITS_MODEL and not _has_base(settings)
        if not makes_base or settings.task not in task_names(self.name):
            return None
        return (
            "No pretrained vision weights are at hand: a small vision transformer is first trained "
            "whole on the digits 0 to 4, which takes up to a minute; it is the base model."
        )

    def load_base(self, settings: RunSettings, task: ImageTask) -> BaseModel:
        """Return the pretrained model with the head that its task needs."""
        folder = RunFolder(settings.folder)
        if settings.model.model != DIGITS_MODEL:
            return super().load_base(settings, task)
        if _has_base(settings):
            return self.load_with_head(str(folder.base), settings, task)
        with TemporaryDirectory() as temporary:
            save_digits_model(Path(temporary))
            base = self.load_with_head(temporary, settings, task)
        # adapter_config.json names the folder that the base model is going to be written to.
        base.model.name_or_path = base.model.config._name_or_path = str(folder.base)
        return base

    def base_location(self, folder: RunFolder, settings: RunSettings) -> str:
        """Return where the base model of a run is: in its folder, if the run has made it."""
        name = settings.model.model
        return str(folder.base) if name == DIGITS_MODEL else name

    def write_base(self, folder: RunFolder, settings: RunSettings) -> None:
        """Write the base model into the folder of a run that has made it."""
        if settings.model.model == DIGITS_MODEL:
            save_digits_model(folder.base)

    def arguments(self, settings: RunSettings, folder: RunFolder) -> TrainingArguments:
        """Return the trainer's arguments."""
        # Images are read from columns that the model does not take.
        return training_arguments(settings, folder, remove_unused_columns=False)

    def encode(
        self, settings: RunSettings, task: ImageTask, preprocessor: Any, base: BaseModel
    ) -> Sets:
        """Return rows that become pixels when they are asked for."""
        channels = getattr(base.model.config, "num_channels", 3)
        if channels != 3:
            raise UserError(
                f"model: {settings.model.model} reads images of {channels} channels; give one that "
                "reads three, red, green and blue."
            )
        refused = refused_by(base.model, check_one_size(preprocessor, task.sets))
        if refused is not None:
            raise UserError(
                f"model: {settings.model.model} does not read {refused}; correct that file, or "
                "give another model."
            )
        return {
            name: rows.with_transform(partial(inputs_of, preprocessor))
            for name, rows in task.sets.items()
        }

    def batches_and_metrics(self, task: ImageTask, preprocessor: Any) -> dict[str, Any]:
        """Return what stacks pixels, and the task's metrics."""
        return {
            "data_collator": default_data_collator,
            "compute_metrics": compute_metrics(task.metrics),
        }

    # Methods for a finished run

    def trains_on(self, task: Mapping[str, Any]) -> bool:
        """Whether a task is one of images."""
        return task.get("kind") == KIND

    def learnt(self, task: Mapping[str, Any]) -> str:
        """Return what it has learnt, in words."""
        return "classes of images"

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the images of a folder or table, with the classes of the run's task."""
        return load_image_rows(path, task)

    def batches(self, run: LoadedRun, rows: Dataset, batch_size: int) -> Iterator[BatchEncoding]:
        """Yield images as inputs of the model.

        Raises:
            UserError: images that no batch can hold together, or that the model does not read.
        """
        model: Any = run.model
        refused = refused_by(model, check_one_size(run.preprocessor, {"the file": rows}))
        if refused is not None:
            raise UserError(
                f"image_column: the model of {run.folder.path} does not read {refused}; give "
                "images of the size that it was trained on."
            )
        for start in range(0, len(rows), batch_size):
            inputs = inputs_of(run.preprocessor, rows[start : start + batch_size])
            yield BatchEncoding({"pixel_values": inputs["pixel_values"]}).to(run.model.device)

    def read_table(self, path: Path) -> DataTable:
        """Return the images of a folder or table, or one image."""
        # An image that was stored as content is written as its path, or left out.
        return dataclasses.replace(read_image_table(path), types={})

    def records(self, table: DataTable) -> list[OutputRow]:
        """Return the rows of a table, with the paths of images."""
        return without_content(table)

    def from_table(self, run: LoadedRun, table: DataTable) -> ToLabel:
        """Return the images of a folder or table."""
        column, _ = columns_in(table, run.task["image_column"], run.task["label_column"])
        images = read_images(table, column)
        return ToLabel(self.records(table), build_images(images))

    def from_text(self, run: LoadedRun, text: str, text_pair: str | None) -> ToLabel:
        """Refuse texts."""
        raise UserError(
            "text: the run labels images; give --file with an image, a folder or a table of them."
        )


def _has_base(settings: RunSettings) -> bool:
    """Whether the run is resumed and has its base model already."""
    folder = RunFolder(settings.folder)
    return settings.run.resume and (folder.base / MODEL_CONFIG).is_file()
