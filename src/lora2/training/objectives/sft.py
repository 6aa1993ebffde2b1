"""Supervised fine-tuning of a causal language model on texts to write, by TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lora2.data.loading.texts import load_text_task
from lora2.data.tasks.metric_names import EXACT_MATCH, TOKEN_ACCURACY
from lora2.data.tasks.task import Task
from lora2.data.tasks.writing_task import TO_WRITE, WritingTask, prompt_and_answer
from lora2.data.tokenization.texts import by_length
from lora2.errors import UserError
from lora2.training.base_models.generation import check_fits
from lora2.training.base_models.models import BaseModel
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.objective import Measured, RunInputs, Sets
from lora2.training.objectives.reference import without_peft_model
from lora2.training.objectives.writing import (
    WritingObjective,
    check_has_rows,
    check_template,
    naming_refused,
    trl,
    trl_arguments,
)
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings, option_names
from lora2.training.options.text_arguments import PREFERENCE_OPTIONS, TextArguments
from lora2.training.quiet import quiet_tokenizing
from lora2.training.scores.exact_match import ExactMatchCallback, exact_match, questions_in
from lora2.training.trainer.run_trainer import RunBase

if TYPE_CHECKING:
    from torch import nn


# Fields of SFTConfig, under the same names here.
_CONFIG = (
    "completion_only_loss",
    "assistant_only_loss",
    "packing",
    "packing_strategy",
    "eval_packing",
    "loss_type",
)


class SupervisedFineTuning(WritingObjective):
    """Texts to write, of the forms that `lora2.data.tasks.writing_task` names."""

    name = "sft"
    options = frozenset(option_names(TextArguments)) - PREFERENCE_OPTIONS | {"data_dir"}
    forms = TO_WRITE
    losses = ("nll", "dft")

    def check(self, settings: RunSettings) -> None:
        """Need TRL, and validation rows that are packed only if those of the training are."""
        super().check(settings)
        if settings.text.eval_packing and not settings.text.packing:
            # TRL tells rows that are packed apart only where it packs those of the training.
            raise UserError(
                "eval_packing=True: packed validation rows would read each other unless the rows "
                "of the training are packed, too; add --packing true, or leave it out."
            )

    def load_data(self, settings: RunSettings) -> WritingTask:
        """Return the task that the data options name."""
        task = load_text_task(
            **settings.data.for_loader("text_columns", "data_dir"),
            train_rows=settings.text.train_rows,
            validation_rows=settings.text.validation_rows,
            exact_match=settings.text.exact_match_rows > 0,
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
        chosen = {name: getattr(settings.text, name) for name in _CONFIG}
        return trl_arguments(settings, folder, trl().SFTConfig, **chosen | fields)

    def encode(
        self,
        settings: RunSettings,
        task: WritingTask,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return token ids and labels, packed if asked for, as TRL makes them."""
        check_template(settings, task, tokenizer)
        option = "assistant_only_loss=True" if settings.text.assistant_only_loss else "data"
        # A trainer makes its folder, and nothing may be written yet.
        with naming_refused(option, task.name), quiet_tokenizing(), TemporaryDirectory() as folder:
            # The rows must be counted before there is an adapter, whose schedule depends on their
            # number, and TRL makes them only when it makes a trainer.
            made = trl().SFTTrainer(
                model=base.model,
                args=self._config(settings, RunFolder(Path(folder))),
                train_dataset=task.train,
                eval_dataset=task.validation,
                processing_class=tokenizer,
            )
        sets = {"train": made.train_dataset, **made.eval_dataset}
        check_has_rows(settings, sets)
        return sets

    def trainer(
        self,
        settings: RunSettings,
        inputs: RunInputs,
        model: nn.Module,
        callbacks: list[TrainerCallback],
    ) -> RunBase:
        """Return the trainer of a model that is ready to train."""
        # Imported here, because TRL is an extra.
        from lora2.training.trainer.sft_trainer import RunSftTrainer

        (validation,) = inputs.task.validation
        tokenizer = inputs.preprocessor
        rows = settings.text.exact_match_rows
        # Prompts are checked before the trainer makes its folder.
        questions = questions_in(inputs.task.validation[validation], rows) if rows else []
        check_fits(model, tokenizer, [prompt for prompt, _ in questions], "exact_match_rows")
        with naming_refused("training"):
            trainer = RunSftTrainer(
                model=model,
                args=inputs.arguments,
                train_dataset=inputs.sets["train"],
                eval_dataset=by_length(inputs.sets[validation]),
                processing_class=tokenizer,
                callbacks=callbacks,
            )
        if questions:
            # After the adapter's own callbacks, which may still change what is scored.
            trainer.add_callback(
                ExactMatchCallback(trainer, tokenizer, questions, settings.text.max_new_tokens)
            )
        return trainer

    def scored_rows(self, run: LoadedRun, rows: Any) -> Any:
        """Return the rows that the run was scored on: where answers are, the first that have one.

        Raises:
            UserError: none has.
        """
        if EXACT_MATCH not in run.task["metrics"]:
            return rows
        answered = _with_answers(
            rows, f"exact_match_rows: the validation rows of {run.folder.path} hold no answers"
        )
        limit = run.settings.text.exact_match_rows
        return answered.select(range(min(limit, len(answered)))) if limit else answered

    def read_scored_rows(self, path: Path, task: Mapping[str, Any]) -> Any:
        """Return the rows of a file; of a run that is scored on answers, those that have one.

        Raises:
            UserError: none has.
        """
        rows = super().read_scored_rows(path, task)
        if EXACT_MATCH not in task["metrics"]:
            return rows
        return _with_answers(rows, f"file: the rows of {path} hold no answers")

    def measure(self, run: LoadedRun, rows: Any, batch_size: int) -> Measured:
        """Return the share of rows whose prompt is answered exactly right, or of tokens found.

        Raises:
            UserError: `max_length` leaves nothing of the rows.
        """
        if EXACT_MATCH not in run.task["metrics"]:
            return self._token_metrics(run, rows, batch_size)
        questions = questions_in(rows)
        check_fits(run.model, run.tokenizer, [prompt for prompt, _ in questions], "file")
        share = exact_match(
            run.model,
            run.tokenizer,
            questions,
            max_new_tokens=run.settings.text.max_new_tokens,
            batch_size=batch_size,
        )
        return Measured({EXACT_MATCH: share})

    def _token_metrics(self, run: LoadedRun, rows: Any, batch_size: int) -> Measured:
        # Imported here, because TRL is an extra.
        from lora2.training.trainer.sft_trainer import RunSftTrainer

        text = run.settings.text
        fields = {name: getattr(text, name) for name in _CONFIG}
        # All rows are to be scored.
        fields |= {"packing": text.packs_validation, "eval_packing": None}

        def make(arguments: TrainingArguments) -> Trainer:
            trainer: Trainer = RunSftTrainer(
                model=without_peft_model(run.model),
                args=arguments,
                train_dataset=rows,
                eval_dataset=rows,
                processing_class=run.tokenizer,
            )
            return trainer

        return self.evaluated(run, rows, batch_size, trl().SFTConfig, make, **fields)

    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return the metrics of the validation loss, and the one of generated answers."""
        by_loss = ("validation_loss", TOKEN_ACCURACY)
        return (by_loss, (EXACT_MATCH,)) if EXACT_MATCH in task.metrics else (by_loss,)


def _with_answers(rows: Any, refusal: str) -> Any:
    answered = [index for index, row in enumerate(rows) if prompt_and_answer(row) is not None]
    if not answered:
        raise UserError(
            f"{refusal} to compare with, so there is nothing to evaluate; give --file with prompts "
            "and completions, or with messages that end in an answer of the assistant."
        )
    return rows.select(answered)
