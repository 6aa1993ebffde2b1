"""The trainer's arguments, and how many optimizer steps they make."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy
from transformers.training_args import OptimizerNames

from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings, as_typed
from lora2.training.quiet import quiet_loading
from lora2.training.trainer.compilation import check_compilation
from lora2.training.trainer.processes import processes_launched
from lora2.tuners.base.token_rows import FIELD, has_tied_rows

# What transformers, accelerate and the packages that they load raise for an option.
_REFUSALS = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


# What transformers reads for them; what else is given it leaves aside.
_OPTIMIZER_ARGUMENTS = {
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov"),
    "adagrad": ("lr_decay", "weight_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "weight_decay", "centered"),
}


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
        # As for a model without an adapter: the search costs time in each step, and torch warns
        # where it finds none. What happens to a model that has some, `sentences.py` says.
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
    with quiet_loading():
        arguments = _naming_refused_option(make_and_try, settings.training)
    # With more, transformers would split each batch over them by threads (DataParallel): a batch as
    # many times as large as the options say, for a run of another result.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    _check_reporting(arguments)
    check_compilation(arguments)
    return arguments


def _check_launcher(settings: RunSettings) -> None:
    sharding = settings.training.get("fsdp")
    # What torchrun and accelerate set.
    if sharding and "LOCAL_RANK" not in os.environ:
        raise UserError(
            f"fsdp={as_typed(sharding)} shards over several processes, and this is one; start it "
            "with torchrun or accelerate launch, or leave fsdp out."
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
    except _REFUSALS as error:
        names = (name for name in options if _works_without(name, make, options))
        name = next(names, None)
        variable = _refused_variable(make, options) if name is None else None
        if variable is not None:
            raise UserError(
                f"{variable}={os.environ[variable]}, an environment variable, cannot be followed "
                f"({clause_of(error)}); unset it, or give it another value."
            ) from error
        named = "training" if name is None else f"{name}={as_typed(options[name])}"
        raise UserError(f"{named}: {_sentence(error)}") from error


def _works_without(
    name: str, make: Callable[[Mapping[str, Any]], TrainingArguments], options: Mapping[str, Any]
) -> bool:
    try:
        make({other: value for other, value in options.items() if other != name})
    except _REFUSALS:
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
        except _REFUSALS:
            continue
        else:
            return name
        finally:
            os.environ[name] = value
    return None


def _sentence(error: Exception) -> str:
    return f"{clause_of(error)}."


def _check_reporting(arguments: TrainingArguments) -> None:
    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except _REFUSALS as error:
        # A package that is not installed, or a name that is none.
        raise UserError(f"report_to={as_typed(arguments.report_to)}: {_sentence(error)}") from error


def check_optimizer(arguments: TrainingArguments, model: nn.Module) -> None:
    """Check that the trainer will be able to make its optimizer.

    Raises:
        UserError: a package that is missing, or `optim_args` that the optimizer does not take.
    """
    _check_optimizer_arguments(arguments)
    # A layer-wise one puts hooks on the parameters when it is made; its plain twin does not.
    plain = copy.copy(arguments)
    plain.optim = OptimizerNames(as_typed(plain.optim).removesuffix("_layerwise"))
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(plain, model)
        if kind.__module__.startswith("torch.optim"):
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            kind(trained, **options)
    except _REFUSALS as error:
        given = "" if arguments.optim_args is None else f" with optim_args={arguments.optim_args}"
        raise UserError(f"optim={as_typed(arguments.optim)}{given}: {_sentence(error)}") from error


def check_sharding(arguments: TrainingArguments, model: nn.Module) -> None:
    """Check that accelerate will be able to shard the model, if it is to.

    Raises:
        UserError: accelerate 1.15 knows two modules of one weight by their attribute, which PEFT
            computes at each access where rows are trained; it then fails with every method.
    """
    if arguments.fsdp and has_tied_rows(model):
        raise UserError(
            f"fsdp={as_typed(arguments.fsdp)}: rows of tokens are trained (new_tokens or {FIELD}), "
            "and the head of this model shares the weight of its embedding, which accelerate "
            "cannot shard then; leave fsdp out."
        )


def _check_optimizer_arguments(arguments: TrainingArguments) -> None:
    if arguments.optim_args is None:
        return
    known = _OPTIMIZER_ARGUMENTS.get(as_typed(arguments.optim))
    for pair in arguments.optim_args.replace(" ", "").split(","):
        name, equals, value = pair.partition("=")
        if not (name and equals and value) or "=" in value:
            raise UserError(
                f"optim_args={arguments.optim_args} must be pairs of name=value with commas, "
                "such as momentum=0.9,nesterov=true."
            )
        if known is not None and name not in known:
            raise UserError(
                f"optim_args={arguments.optim_args}: {as_typed(arguments.optim)} does not read "
                f"{name}, only {', '.join(known)}; leave {name} out."
            )
        if value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise UserError(f"optim_args={arguments.optim_args}: {name} must be a finite number.")


def check_learning_rate_schedule(arguments: TrainingArguments, steps: int) -> None:
    """Check that the trainer will be able to make its schedule, by making it.

    Raises:
        UserError: a schedule that cannot be made of its `lr_scheduler_kwargs`.
    """
    name = arguments.lr_scheduler_type
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=arguments.learning_rate)
    try:
        scheduler = get_scheduler(
            name,
            optimizer,
            arguments.get_warmup_steps(steps),
            steps,
            scheduler_specific_kwargs=dict(arguments.lr_scheduler_kwargs or {}),
        )
        # Some arguments are read after the warm-up, or at the end.
        for factor in getattr(scheduler, "lr_lambdas", ()):
            for step in (steps // 2, steps):
                factor(step)
    except _REFUSALS as error:
        raise UserError(
            f"lr_scheduler_type={getattr(name, 'value', name)} with lr_scheduler_kwargs="
            f"{arguments.lr_scheduler_kwargs}: {_sentence(error)}"
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
