"""The trainer's arguments, made of a run's options, and how many optimizer steps they make."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy

from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings, as_typed
from lora2.training.quiet import quiet_loading
from lora2.training.trainer.compilation import check_compilation
from lora2.training.trainer.processes import processes_launched
from lora2.training.trainer.refusals import REFUSALS, sentence_of


class _Probe(nn.Module):
    """The smallest model that transformers makes a trainer of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.config = PretrainedConfig()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Never called."""
        return self.linear(x)


def training_arguments(
    settings: RunSettings,
    folder: RunFolder,
    kind: type[TrainingArguments] = TrainingArguments,
    **fields: Any,
) -> TrainingArguments:
    """Return the trainer's arguments, of a kind that may have more fields.

    Raises:
        UserError: options that transformers refuses, or could not train with.
    """
    # torch warns about pinned memory where there is no device to copy to.
    defaults = {"dataloader_pin_memory": torch.cuda.is_available()}
    if processes_launched() > 1:
        # The search for unused parameters costs time in each step, and torch warns where it finds
        # none. Of a model that has some, torch stops the run with an error, which names the option.
        defaults["ddp_find_unused_parameters"] = False
        # Without it, transformers would let each process train for itself on a CPU.
        if not torch.accelerator.is_available():
            defaults["use_cpu"] = True

    def make(options: Mapping[str, Any]) -> TrainingArguments:
        return kind(
            output_dir=str(folder.checkpoints),
            label_names=["labels"],
            disable_tqdm=True,
            **{**defaults, **fields, **options},
        )

    def make_and_try(options: Mapping[str, Any]) -> TrainingArguments:
        _try_trainer(make(options))
        return make(options)

    _check_launcher(settings)
    _check_reporters(settings.training.get("report_to", ["none"]))
    with quiet_loading():
        arguments = _naming_refused_option(make_and_try, settings.training)
    # With more GPUs, transformers would take a batch as many times as large as the options say, and
    # split it over them by threads (DataParallel).
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    _check_reporting(arguments)
    check_compilation(arguments)
    return arguments


def _check_launcher(settings: RunSettings) -> None:
    # torchrun and accelerate set this variable.
    if "LOCAL_RANK" in os.environ:
        return
    for option, needs in (("fsdp", "shards over"), ("ddp_backend", "is how to connect")):
        value = settings.training.get(option)
        if value:
            raise UserError(
                f"{option}={as_typed(value)} {needs} several processes, and this is one; start it "
                f"with torchrun or accelerate launch, or leave {option} out."
            )


def _check_reporters(names: list[str] | None) -> None:
    known = ["none", "all", *INTEGRATION_TO_CALLBACK]
    if names is None or not set(names) <= set(known):
        raise UserError(
            f"report_to={'null' if names is None else as_typed(names)} must be of "
            f"{', '.join(known)}; write none to report to nothing."
        )


def _try_trainer(arguments: TrainingArguments) -> None:
    """Make a trainer of a model of one number: what the real one would be refused for."""
    with TemporaryDirectory() as folder:
        arguments.output_dir = folder
        arguments.eval_strategy = IntervalStrategy.NO
        Trainer(_Probe(), arguments)


def _naming_refused_option(
    make: Callable[[Mapping[str, Any]], TrainingArguments], options: Mapping[str, Any]
) -> TrainingArguments:
    """Return what `make` makes of the options; where it fails, name the one that it fails for."""
    try:
        return make(options)
    except REFUSALS as error:
        names = (name for name in options if _works_without(name, make, options))
        name = next(names, None)
        variable = _refused_variable(make, options) if name is None else None
        if variable is not None:
            raise UserError(
                f"{variable}={os.environ[variable]}, an environment variable, cannot be followed "
                f"({clause_of(error)}); unset it, or give it another value."
            ) from error
        named = "training" if name is None else f"{name}={as_typed(options[name])}"
        raise UserError(f"{named}: {sentence_of(error)}") from error


def _works_without(
    name: str, make: Callable[[Mapping[str, Any]], TrainingArguments], options: Mapping[str, Any]
) -> bool:
    try:
        make({other: value for other, value in options.items() if other != name})
    except REFUSALS:
        return False
    return True


def _refused_variable(
    make: Callable[[Mapping[str, Any]], TrainingArguments], options: Mapping[str, Any]
) -> str | None:
    """Return the variable of accelerate's environment without which `make` works."""
    for name in sorted(each for each in os.environ if each.startswith("ACCELERATE_")):
        value = os.environ.pop(name)
        try:
            make(options)
        except REFUSALS:
            continue
        else:
            return name
        finally:
            os.environ[name] = value
    return None


def _check_reporting(arguments: TrainingArguments) -> None:
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except REFUSALS as error:
        # The package of an integration is not installed.
        raise UserError(
            f"report_to={as_typed(arguments.report_to)}: {sentence_of(error)}"
        ) from error


def optimizer_steps(arguments: TrainingArguments, rows: int) -> int:
    """Return how many optimizer steps the trainer will do, counted as it does.

    Raises:
        UserError: there is no whole batch, and `dataloader_drop_last` drops others.
    """
    rows_per_process = math.ceil(rows / arguments.world_size)
    round_batches = math.floor if arguments.dataloader_drop_last else math.ceil
    batches = round_batches(rows_per_process / arguments.train_batch_size)
    if not batches:
        raise UserError(
            f"dataloader_drop_last=True drops all {rows} training rows, which are fewer than a "
            f"batch of {arguments.train_batch_size} in each process; leave it out, or lower "
            "--per_device_train_batch_size."
        )
    if arguments.max_steps > 0:
        return arguments.max_steps
    steps_per_epoch = max(1, math.ceil(batches / arguments.gradient_accumulation_steps))
    return math.ceil(arguments.num_train_epochs * steps_per_epoch)
