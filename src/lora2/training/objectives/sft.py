"""Supervised fine-tuning of a causal language model on texts to write, by TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lora2.data import Task, TextTask, load_text_rows, load_text_task
from lora2.data.text_loading import EXACT_MATCH, TOKEN_ACCURACY
from lora2.data.text_task import prompt_and_answer
from lora2.data.tokenization import by_length
from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.arguments import PACKAGED_LANGUAGE_MODEL, RunSettings, option_names
from lora2.training.exact_match import ExactMatchCallback, exact_match, questions_in
from lora2.training.loaded_run import SavedRun
from lora2.training.models import BaseModel, load_language_model
from lora2.training.new_tokens import grow_as_saved
from lora2.training.objectives.objective import Objective, Sets
from lora2.training.objectives.output import TEXTS
from lora2.training.quiet import quiet_data_sets
from lora2.training.run_folder import RunFolder
from lora2.training.text_arguments import TextArguments
from lora2.training.trainer_arguments import training_arguments

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


_EXTRA = "sft"
# Fields of SFTConfig, under the same names here.
_CONFIG = (
    "completion_only_loss",
    "assistant_only_loss",
    "packing",
    "packing_strategy",
    "eval_packing",
    "loss_type",
)
_OF_TASK = ("task", "train_file", "validation_file", "dataset", "dataset_config", "text_columns")


class SupervisedFineTuning(Objective):
    """Texts to write, of the forms that `lora2.data.text_task` names."""

    name = "sft"
    output = TEXTS
    options = frozenset(option_names(TextArguments))
    recipe: ClassVar[Mapping[str, Any]] = {
        "model": PACKAGED_LANGUAGE_MODEL,
        "max_length": 1024,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 3.0,
        "learning_rate": 5e-4,
    }

    def check(self, settings: RunSettings) -> None:
        """Need TRL."""
        require("trl", extra=_EXTRA)

    def load_data(self, settings: RunSettings) -> TextTask:
        """Return the task that the data options name."""
        task = load_text_task(
            **{name: getattr(settings.data, name) for name in _OF_TASK},
            train_rows=settings.text.train_rows,
            validation_rows=settings.text.validation_rows,
            exact_match=settings.text.exact_match_rows > 0,
            data_seed=settings.data.dataset_seed,
        )
        if settings.text.assistant_only_loss and not task.conversational:
            raise UserError(
                f"assistant_only_loss=True: the rows of {task.name} hold no messages; leave it "
                "out, or give rows of messages."
            )
        if settings.text.completion_only_loss and task.form != "prompt_completion":
            raise UserError(
                f"completion_only_loss=True: the rows of {task.name} hold no completions; leave it "
                "out, or give rows of prompt and completion."
            )
        return task

    def load_base(self, settings: RunSettings, task: TextTask) -> BaseModel:
        """Return the pretrained model."""
        return load_language_model(settings.model.model, settings.model.dtype)

    def reload(self, name: str, config: PretrainedConfig, dtype: str) -> BaseModel:
        """Return the model under a saved adapter."""
        base = load_language_model(name, dtype)
        grow_as_saved(base.model, config)
        return base

    def arguments(self, settings: RunSettings, folder: RunFolder) -> TrainingArguments:
        """Return the arguments of a trainer whose rows have been tokenized before."""
        return self._config(
            settings,
            folder,
            # The mask has been made, and packed rows no longer show what it was made of.
            assistant_only_loss=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )

    def _config(self, settings: RunSettings, folder: RunFolder, **fields: Any) -> TrainingArguments:
        config: type[TrainingArguments] = require("trl", extra=_EXTRA).SFTConfig
        chosen = {name: getattr(settings.text, name) for name in _CONFIG}
        # TRL's own defaults differ between machines, and from what other runs have.
        usual = {"bf16": False, "gradient_checkpointing": False}
        return training_arguments(
            settings,
            folder,
            config,
            **usual | chosen | {"max_length": settings.data.max_length} | fields,
        )

    def tokenize(
        self,
        settings: RunSettings,
        task: TextTask,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return token ids and labels, packed if asked for, as TRL makes them."""
        _check_lengths(settings.data.max_length, base)
        if task.conversational and tokenizer.chat_template is None:
            raise UserError(
                f"model: the tokenizer of {settings.model.model} has no chat template to write "
                "messages with; give a model that was trained on conversations, or rows of text."
            )
        trl = require("trl", extra=_EXTRA)
        try:
            # A trainer makes its folder, and nothing may be written yet.
            with quiet_data_sets(), TemporaryDirectory() as folder:
                # The rows must be counted before there is an adapter, whose schedule depends on
                # their number. What TRL makes of rows is what a trainer of it has.
                made = trl.SFTTrainer(
                    model=base.model,
                    args=self._config(settings, RunFolder(Path(folder))),
                    train_dataset=task.train,
                    eval_dataset=task.validation,
                    processing_class=tokenizer,
                )
        except (ValueError, RuntimeError) as error:
            option = "assistant_only_loss=True" if settings.text.assistant_only_loss else "data"
            raise UserError(f"{option}: {' '.join(str(error).split())}") from error
        sets = {"train": made.train_dataset, **made.eval_dataset}
        for name, rows in sets.items():
            if len(rows) == 0:
                raise UserError(
                    f"max_length={settings.data.max_length} cuts off all that is to be learnt, in "
                    f"every {name} row; write a larger number."
                )
        return sets

    def trainer(
        self,
        settings: RunSettings,
        task: TextTask,
        tokenizer: PreTrainedTokenizerBase,
        model: nn.Module,
        arguments: TrainingArguments,
        sets: Sets,
        callbacks: list[TrainerCallback],
    ) -> Trainer:
        """Return the trainer of a model that is ready to train."""
        # Imported here, because TRL is an extra.
        from lora2.training.sft_trainer import RunSftTrainer

        (validation,) = task.validation
        rows = settings.text.exact_match_rows
        # Before the trainer, which makes its folder.
        questions = questions_in(task.validation[validation], rows) if rows else []
        try:
            trainer = RunSftTrainer(
                model=model,
                args=arguments,
                train_dataset=sets["train"],
                eval_dataset=by_length(sets[validation]),
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        except ValueError as error:
            raise UserError(f"training: {' '.join(str(error).split())}") from error
        if questions:
            # After the adapter's own callbacks, which may still change what is scored.
            trainer.add_callback(
                ExactMatchCallback(trainer, tokenizer, questions, settings.text.max_new_tokens)
            )
        return trainer

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file, of the form of the run's task."""
        return load_text_rows(path, dict(task))

    def scored_rows(self, run: SavedRun, rows: Any) -> Any:
        """Return the first rows that have an answer, as many as the run was scored on."""
        answered = [index for index, row in enumerate(rows) if prompt_and_answer(row) is not None]
        return rows.select(answered[: run.settings.text.exact_match_rows or None])

    def measure(self, run: SavedRun, rows: Any, batch_size: int) -> dict[str, float]:
        """Return the share of rows whose prompt is answered exactly right."""
        share = exact_match(
            run.model,
            run.tokenizer,
            questions_in(rows),
            max_new_tokens=run.settings.text.max_new_tokens,
            batch_size=batch_size,
        )
        return {EXACT_MATCH: share}

    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return the metrics of the validation loss, and the one of generated answers."""
        by_loss = ("validation_loss", TOKEN_ACCURACY)
        return (by_loss, (EXACT_MATCH,)) if EXACT_MATCH in task.metrics else (by_loss,)


def _check_lengths(max_length: int, base: BaseModel) -> None:
    longest = getattr(base.model.config, "max_position_embeddings", None)
    if longest is not None and max_length > longest:
        raise UserError(
            f"max_length: got {max_length}, but the model reads {longest} tokens; write at most "
            f"{longest}."
        )
    if max_length < 2:
        raise UserError(f"max_length: got {max_length}; write at least 2.")
