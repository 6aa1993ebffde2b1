"""Direct preference optimization of a causal language model, by TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from peft import PeftModel
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lora2.data.loading.preferences import load_preference_task
from lora2.data.tasks.task import Task
from lora2.data.tasks.writing_task import PREFERENCES, WritingTask
from lora2.errors import UserError
from lora2.exchange.verification import copy_sharing_weights
from lora2.training.base_models.models import BaseModel
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.objectives.objective import Measured, RunInputs, Sets
from lora2.training.objectives.reference import (
    needs_base,
    reference_at_start,
    reference_of_run,
    without_peft_model,
)
from lora2.training.objectives.writing import (
    WritingObjective,
    check_has_rows,
    check_template,
    naming_refused,
    trl,
    trl_arguments,
)
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.start_adapter import check_same_start
from lora2.training.options.arguments import RunSettings
from lora2.training.options.sharding import sharding_of
from lora2.training.options.text_arguments import PREFERENCE_OPTIONS, PreferenceLoss
from lora2.training.quiet import printing_on_standard_error, quiet_tokenizing
from lora2.training.trainer.run_trainer import RunBase
from lora2.tuners.base.token_rows.wrappers import complete_wrappers

if TYPE_CHECKING:
    from torch import nn


class PreferenceOptimization(WritingObjective):
    """Two answers to each prompt, of which one is better."""

    name = "dpo"
    options = PREFERENCE_OPTIONS | {"train_rows", "validation_rows", "max_new_tokens", "loss_type"}
    forms = PREFERENCES
    losses = get_args(PreferenceLoss)
    no_length = "a row of --objective dpo has two texts and no length of its own"
    unread: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("lora_dropout", "label_smoothing_factor"),
        "of which TRL leaves all dropout out and takes losses of its own",
    )
    recipe: ClassVar[Mapping[str, Any]] = {**WritingObjective.recipe, "loss_type": "sigmoid"}

    def check(self, settings: RunSettings) -> None:
        """Need TRL, a loss of this objective, and a model that one process holds whole."""
        super().check(settings)
        if settings.adapter["init_weights"] == "gradient":
            raise UserError(
                "init_weights=gradient: --objective dpo compares a model with its reference, and "
                "the model alone returns no loss whose gradients could start an adapter; leave it "
                "out."
            )
        for given in sharding_of(settings).values():
            raise UserError(
                f"{given}: --objective dpo has a reference that shares the weights of the model, "
                "which may not be split over processes; leave it out."
            )

    def load_data(self, settings: RunSettings) -> WritingTask:
        """Return the task that the data options name."""
        return load_preference_task(
            **settings.data.for_loader("text_columns"),
            train_rows=settings.text.train_rows,
            validation_rows=settings.text.validation_rows,
        )

    def arguments(self, settings: RunSettings, folder: RunFolder) -> TrainingArguments:
        """Return the trainer's arguments."""
        return trl_arguments(
            settings,
            folder,
            trl().DPOConfig,
            **_preference_loss(settings),
        )

    def encode(
        self,
        settings: RunSettings,
        task: WritingTask,
        tokenizer: PreTrainedTokenizerBase,
        base: BaseModel,
    ) -> Sets:
        """Return token ids of prompts and answers, as TRL makes them."""
        check_template(settings, task, tokenizer)
        (validation,) = task.validation
        # A trainer makes its folder, and nothing may be written yet.
        with naming_refused("data"), quiet_tokenizing(), TemporaryDirectory() as folder:
            made = _trainer(
                # TRL replaces the forward of a model, and wants two different ones.
                copy_sharing_weights(base.model),
                copy_sharing_weights(base.model),
                self.arguments(settings, RunFolder(Path(folder))),
                task.sets,
                tokenizer,
            )
        sets = {"train": made.train_dataset, validation: made.eval_dataset}
        check_has_rows(settings, sets)
        return sets

    def trainer(
        self,
        settings: RunSettings,
        inputs: RunInputs,
        model: nn.Module,
        callbacks: list[TrainerCallback],
    ) -> RunBase:
        """Return the trainer of a model that is ready to train, against what it computes now."""
        reference = reference_at_start(model, settings)
        with naming_refused("training"):
            made: RunBase = _trainer(
                model, reference, inputs.arguments, inputs.sets, inputs.preprocessor, callbacks
            )
        return made

    @printing_on_standard_error()
    def measure(self, run: LoadedRun, rows: Any, batch_size: int) -> Measured:
        """Return reward accuracy and margin, against what the run started from."""
        complete_wrappers(run.model)
        check_same_start(run.task, run.settings, "train the run again")
        reference = reference_of_run(run, self._base_of(run) if needs_base(run) else None)
        sets = {"train": rows, "validation": rows}

        def make(arguments: TrainingArguments) -> Trainer:
            # PEFT's AdaLoRA computes a loss of an adapter that is trained alone.
            model = without_peft_model(run.model)
            trainer: Trainer = _trainer(model, reference, arguments, sets, run.tokenizer)
            return trainer

        return self.evaluated(
            run, rows, batch_size, trl().DPOConfig, make, **_preference_loss(run.settings)
        )

    def _base_of(self, run: LoadedRun) -> BaseModel:
        model: Any = run.model
        config = model.get_base_model().config if isinstance(model, PeftModel) else model.config
        return self.reload(run.base_model, config, run.settings.model.dtype)

    def shown(self, task: Task) -> tuple[tuple[str, ...], ...]:
        """Return the metrics of the validation set, which are known at once."""
        return (("validation_loss", *task.metrics),)


def _preference_loss(settings: RunSettings) -> dict[str, Any]:
    """Return the fields of DPOConfig that say which loss is learnt."""
    return {"beta": settings.text.beta, "loss_type": [settings.text.loss_type]}


def _trainer(
    model: Any,
    reference: Any,
    arguments: TrainingArguments,
    sets: Sets,
    tokenizer: PreTrainedTokenizerBase,
    callbacks: list[TrainerCallback] | None = None,
) -> Any:
    """Return a trainer; sets: "train", and one of validation."""
    # Imported here, because TRL is an extra.
    from lora2.training.trainer.dpo_trainer import RunDpoTrainer

    (validation,) = (rows for name, rows in sets.items() if name != "train")
    return RunDpoTrainer(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=sets["train"],
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
