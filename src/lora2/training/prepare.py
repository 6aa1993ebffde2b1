"""Reads and checks every input of a run, and makes its trainer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lora2.data.tasks.task import Task
from lora2.errors import UserError
from lora2.training.base_models.new_tokens import with_new_tokens
from lora2.training.base_models.preprocessors import Preprocessor
from lora2.training.budgets import budget_in_words
from lora2.training.checks.label_smoothing import check_has_classes, check_has_no_penalty
from lora2.training.checks.named_modules import check_named_modules
from lora2.training.checks.option_ranges import check_values
from lora2.training.checks.positions import check_positions
from lora2.training.checks.sampling import check_sampling
from lora2.training.checks.sharding import check_may_shard
from lora2.training.checks.starting_point import check_start_from
from lora2.training.checks.token_ids import check_token_ids
from lora2.training.checks.trained_dtypes import check_trained_dtypes
from lora2.training.methods.method import Method
from lora2.training.methods.registry import METHODS
from lora2.training.methods.wrapping import head_names
from lora2.training.objectives.objective import TOKENIZER, Objective, RunInputs, Sets
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.options.run_arguments import MethodName
from lora2.training.parameter_counts import count_parameters, trained_parts
from lora2.training.trainer.argument_checks import (
    check_learning_rate_schedule,
    check_optimizer,
    check_sharding,
)
from lora2.training.trainer.loss_check import LossCheck
from lora2.training.trainer.processes import restore_engine
from lora2.training.trainer.trainer_arguments import optimizer_steps

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PreparedRun:
    """A run whose every input has been read and checked; nothing has been written yet.

    Attributes:
        steps: number of optimizer steps.
        budget: the budget schedule in words.
        head: ends of the names of modules that every method trains, see `head_names`.
        parameters: trainable parameters, of the "adapter" and of the "head"; those of modules
            that this run trains whole are counted with the adapter.
        shown: the metrics to show while training, by what is known at the same time.
        left_out: rows of each set of which `max_length` leaves nothing to learn, none where rows
            are packed, which are no longer counted.
        base_digest: that of the base model's weights, see `weight_digest`.
    """

    settings: RunSettings
    folder: RunFolder
    task: Task
    preprocessor: Preprocessor
    trainer: Trainer
    steps: int
    budget: str
    head: tuple[str, ...]
    parameters: dict[str, int]
    shown: tuple[tuple[str, ...], ...]
    left_out: dict[str, int] = field(default_factory=dict)
    base_digest: str | None = None

    @property
    def main_metric(self) -> str:
        """Name of the metric that decides what is best, as metrics.jsonl has it."""
        return self.task.recorded_main_metric


def prepare(settings: RunSettings, method: MethodName | None = None) -> PreparedRun:
    """Load data and model, add the adapter and make the trainer.

    Raises:
        UserError: anything that cannot be used, from a missing column to a schedule too long.
    """
    chosen = METHODS[method or settings.run.method]
    objective = objective_of(settings)
    folder = RunFolder(settings.folder)
    _check_options(settings, chosen, objective, folder)
    inputs = _read_inputs(settings, chosen, objective, folder)
    model = chosen.build(inputs.base, inputs.options, inputs.steps)
    head = head_names(inputs.base)
    parameters = count_parameters(model, head)
    _check_model(model, settings, chosen, inputs.arguments, sum(parameters.values()))
    budget = budget_in_words(model, inputs.steps)
    return PreparedRun(
        settings=settings,
        folder=folder,
        task=inputs.task,
        preprocessor=inputs.preprocessor,
        trainer=_make_trainer(model, settings, chosen, inputs, head),
        steps=inputs.steps,
        budget=budget,
        head=head,
        parameters=parameters,
        shown=objective.shown(inputs.task),
        left_out=_left_out(settings, inputs.task, inputs.sets),
        base_digest=inputs.base.digest,
    )


def _check_options(
    settings: RunSettings, method: Method, objective: Objective, folder: RunFolder
) -> None:
    """Check what can be checked of the options before data and model are read."""
    check_values(settings)
    method.check(settings.adapter)
    objective.check(settings)
    check_sampling(settings, objective)
    check_may_shard(settings, method)
    check_start_from(settings.adapter["start_from"], method, folder)


def _read_inputs(
    settings: RunSettings, method: Method, objective: Objective, folder: RunFolder
) -> RunInputs:
    arguments = objective.arguments(settings, folder)
    task = objective.load_data(settings)
    check_has_classes(arguments.label_smoothing_factor, task)
    preprocessor = objective.load_preprocessor(settings.model.model)
    # The seed is set before the model is loaded, because loading draws the head.
    set_seed(arguments.seed)
    base = objective.load_base(settings, task)
    options = with_new_tokens(settings, preprocessor, base.model)
    if objective.preprocessor == TOKENIZER:
        check_positions(method, objective, settings, base)
    check_named_modules(base.model, method, options)
    sets = objective.encode(settings, task, preprocessor, base)
    restore_engine(arguments)
    if objective.preprocessor == TOKENIZER:
        padding = _padding(settings, arguments, preprocessor)
        check_token_ids(sets, padding, base.model, settings.model.model)
    steps = optimizer_steps(arguments, len(sets["train"]))
    check_learning_rate_schedule(arguments, steps)
    return RunInputs(arguments, task, preprocessor, base, options, sets, steps)


def _padding(
    settings: RunSettings, arguments: TrainingArguments, tokenizer: Preprocessor
) -> int | None:
    """Return the token that batches are padded with; None where no batch is padded."""
    largest = max(arguments.per_device_train_batch_size, arguments.per_device_eval_batch_size)
    if (settings.text.packing and settings.text.packs_validation) or largest == 1:
        return None
    token: int | None = getattr(tokenizer, "pad_token_id", None)
    return token


def _check_model(
    model: nn.Module,
    settings: RunSettings,
    method: Method,
    arguments: TrainingArguments,
    trained: int,
) -> None:
    """Check that a model with its adapter can be trained; trained: its trainable parameters."""
    check_has_no_penalty(arguments.label_smoothing_factor, model, method.label)
    if not trained:
        raise UserError(
            f"method: {method.label} trains nothing of {settings.model.model}, which has no head; "
            "choose another method."
        )
    check_trained_dtypes(model, settings.model.dtype, method.label)
    check_optimizer(arguments, model)
    check_sharding(arguments, model)


def _make_trainer(
    model: nn.Module,
    settings: RunSettings,
    method: Method,
    inputs: RunInputs,
    head: Collection[str],
) -> Trainer:
    callbacks = [LossCheck(), *method.callbacks()]
    made = objective_of(settings).trainer(settings, inputs, model, callbacks)
    make = method.make_optimizer
    made.plan_optimizer(
        None if make is None else partial(make, model, inputs.arguments, settings.adapter),
        trained_parts(model, head).head,
        # The head alone is trained at the learning rate of the run.
        None if method.head_alone else settings.run.head_learning_rate,
    )
    trainer: Trainer = made
    trainer.remove_callback(PrinterCallback)
    _call_first(trainer, callbacks)
    return trainer


def _call_first(trainer: Trainer, callbacks: Sequence[TrainerCallback]) -> None:
    """Call these before all others, so that loggers such as TensorBoard get what they log."""
    handler = trainer.callback_handler
    handler.callbacks = [*callbacks, *(each for each in handler.callbacks if each not in callbacks)]


def _left_out(settings: RunSettings, task: Task, sets: Sets) -> dict[str, int]:
    packs, packs_others = settings.text.packing, settings.text.packs_validation
    counts = {
        name: len(task.sets[name]) - len(made)
        for name, made in sets.items()
        if not (packs if name == "train" else packs_others)
    }
    return {name: count for name, count in counts.items() if count}
