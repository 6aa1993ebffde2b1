"""The base class of the objectives whose model writes texts, which TRL trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from torch import OutOfMemoryError
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from lora2.data.loading.texts import load_text_rows
from lora2.data.tasks.writing_task import Form, WritingTask
from lora2.errors import NumericalError, UserError
from lora2.support.error_text import one_line
from lora2.support.extras import require
from lora2.training.base_models.chat_templates import is_of_template, refused_by_template
from lora2.training.base_models.models import BaseModel, load_language_model
from lora2.training.base_models.new_tokens import grow_as_saved
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.objective import Measured, Objective, Sets
from lora2.training.objectives.output import TEXTS
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.options.model_arguments import PACKAGED_LANGUAGE_MODEL
from lora2.training.quiet import printing_on_standard_error, quiet_tokenizing
from lora2.training.trainer.trainer_arguments import training_arguments

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers import PretrainedConfig

_EXTRA = "sft"
# TRL's own defaults differ between machines, and from those of other runs.
_USUAL: Mapping[str, Any] = {"bf16": False, "gradient_checkpointing": False}
# Arguments of a trainer that scores a finished run.
_SCORING: Mapping[str, Any] = {
    **_USUAL,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "report_to": [],
}


class WritingObjective(Objective):
    """Learns from texts, of some of the forms that `lora2.data.tasks.writing_task` names.

    Attributes:
        forms: the forms of rows.
        losses: the values of `loss_type`.
    """

    output = TEXTS
    recipe: ClassVar[Mapping[str, Any]] = {
        "model": PACKAGED_LANGUAGE_MODEL,
        "max_length": 1024,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 3.0,
        "learning_rate": 5e-4,
    }
    forms: ClassVar[Collection[Form]]
    losses: ClassVar[Collection[str]]

    def check(self, settings: RunSettings) -> None:
        """Need TRL, a loss of this objective, and texts of more tokens than the first."""
        trl()
        if settings.data.max_length < 2:
            raise UserError(f"max_length: got {settings.data.max_length}; write at least 2.")
        if settings.text.loss_type not in self.losses:
            raise UserError(
                f"loss_type={settings.text.loss_type}: of --objective {self.name} write one of "
                f"{', '.join(self.losses)}."
            )

    def load_base(self, settings: RunSettings, task: WritingTask) -> BaseModel:
        """Return the pretrained model."""
        return load_language_model(settings.model.model, settings.model.dtype)

    def reload(self, name: str, config: PretrainedConfig, dtype: str) -> BaseModel:
        """Return the model under a saved adapter."""
        base = load_language_model(name, dtype)
        grow_as_saved(base.model, config)
        return base

    def trains_on(self, task: Mapping[str, Any]) -> bool:
        """Whether a task of this description has rows of this objective."""
        return task.get("form") in self.forms

    def learnt(self, task: Mapping[str, Any]) -> str:
        """Return what it has learnt, in words."""
        return "to write texts"

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file, of the form of the run's task."""
        return load_text_rows(path, dict(task))

    @printing_on_standard_error()
    def evaluated(
        self,
        run: LoadedRun,
        rows: Any,
        batch_size: int,
        kind: type[TrainingArguments],
        make_trainer: Callable[[TrainingArguments], Trainer],
        **fields: Any,
    ) -> Measured:
        """Return the metrics of a finished run on rows, as a trainer of TRL computes them.

        kind: the class of the trainer's arguments; fields: those of them that the objective has.
        make_trainer: makes a trainer whose `eval_dataset` are the rows that can be scored.

        Raises:
            UserError: TRL refuses the rows, or `max_length` leaves nothing of them.
            NumericalError: a metric is NaN or infinite.
        """
        length = run.settings.data.max_length
        # A trainer makes its folder.
        with quiet_tokenizing(), naming_refused("data"), TemporaryDirectory() as folder:
            arguments = kind(
                output_dir=folder,
                per_device_eval_batch_size=batch_size,
                max_length=length,
                **_SCORING,
                **fields,
            )
            trainer = make_trainer(arguments)
            check_has_rows(run.settings, {"validation": trainer.eval_dataset})
            trainer.remove_callback(PrinterCallback)
            found = trainer.evaluate()
        packs = run.settings.text.packs_validation
        left_out = 0 if packs else len(rows) - len(trainer.eval_dataset)
        return Measured(_scores_in(found, run), left_out)


def _scores_in(found: Mapping[str, float], run: LoadedRun) -> dict[str, float]:
    """Return the metrics of a run in what a trainer has found.

    Raises:
        NumericalError: one of them is NaN or infinite.
    """
    scores = {name: found[f"eval_{name}"] for name in run.task["metrics"]}
    for name, value in scores.items():
        if not math.isfinite(value):
            raise NumericalError(
                f"{name} of {run.folder.path} is {value}: a weight or the adapter holds NaN, or a "
                "number too large; train it again, or in float32."
            )
    return scores


def trl() -> Any:
    """Return TRL.

    Raises:
        UserError: it is not installed.
    """
    return require("trl", extra=_EXTRA)


def trl_arguments(
    settings: RunSettings, folder: RunFolder, kind: type[TrainingArguments], **fields: Any
) -> TrainingArguments:
    """Return the arguments of a trainer of TRL's, with the defaults that other runs have.

    Raises:
        UserError: options that the trainer refuses.
    """
    length = {"max_length": settings.data.max_length}
    return training_arguments(settings, folder, kind, **{**_USUAL, **length, **fields})


@contextmanager
def naming_refused(what: str, rows: str = "the rows") -> Iterator[None]:
    """Say in one sentence what TRL, or a chat template, refuses; rows: what the template refuses.

    Raises:
        UserError: in place of its error.
    """
    try:
        yield
    except (UserError, OutOfMemoryError):
        raise
    except Exception as error:
        if is_of_template(error):
            raise UserError(refused_by_template(error, rows)) from error
        if isinstance(error, ValueError | RuntimeError):
            raise UserError(f"{what}: {one_line(error)}") from error
        raise


def check_template(
    settings: RunSettings, task: WritingTask, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that a tokenizer can write the messages of a task.

    Raises:
        UserError: it cannot.
    """
    if task.conversational and tokenizer.chat_template is None:
        raise UserError(
            f"model: the tokenizer of {settings.model.model} has no chat template to write "
            "messages with; give a model that was trained on conversations, or rows of text."
        )


def check_has_rows(settings: RunSettings, sets: Sets) -> None:
    """Check that something to learn is left of the rows.

    Raises:
        UserError: `max_length` has cut off all.
    """
    for name, rows in sets.items():
        if len(rows) == 0:
            raise UserError(
                f"max_length={settings.data.max_length} cuts off all that is to be learnt, in "
                f"every {name} row; write a larger number."
            )
