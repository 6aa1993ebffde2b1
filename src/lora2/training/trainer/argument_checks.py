"""Checks that a trainer can make its optimizer and schedule, and shard its model."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.training_args import OptimizerNames

from lora2.errors import UserError
from lora2.support.ranges import NORMAL, check_number
from lora2.training.options.arguments import as_typed
from lora2.training.trainer.refusals import REFUSALS, sentence_of
from lora2.tuners.base.names.peft_names import ROWS
from lora2.tuners.base.token_rows.finding import has_tied_rows

# transformers reads these arguments of these optimizers, and ignores all others in silence.
_OPTIMIZER_ARGUMENTS = {
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov"),
    "adagrad": ("lr_decay", "weight_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "weight_decay", "centered"),
}


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
    except REFUSALS as error:
        given = "" if arguments.optim_args is None else f" with optim_args={arguments.optim_args}"
        raise UserError(
            f"optim={as_typed(arguments.optim)}{given}: {sentence_of(error)}"
        ) from error


def check_sharding(arguments: TrainingArguments, model: nn.Module) -> None:
    """Check that accelerate will be able to shard the model, if it is to.

    Raises:
        UserError: accelerate 1.15 knows two modules of one weight by their attribute, which PEFT
            computes at each access where rows are trained; it then fails with every method.
    """
    if arguments.fsdp and has_tied_rows(model):
        raise UserError(
            f"fsdp={as_typed(arguments.fsdp)}: rows of tokens are trained (new_tokens or {ROWS}), "
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
        number = _number(value)
        if number is not None and not math.isfinite(number):
            raise UserError(f"optim_args={arguments.optim_args}: {name} must be a finite number.")
        if number is not None and name == "eps":
            check_number("optim_args: eps", number, NORMAL)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


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
    except REFUSALS as error:
        raise UserError(
            f"lr_scheduler_type={getattr(name, 'value', name)} with lr_scheduler_kwargs="
            f"{arguments.lr_scheduler_kwargs}: {sentence_of(error)}"
        ) from error
