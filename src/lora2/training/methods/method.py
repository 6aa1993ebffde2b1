"""The description of a method: what it trains, its size, its training and its export."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from lora2.training.base_models.models import BaseModel

Options = Mapping[str, Any]

PLACE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""The options that choose the modules to adapt."""

AS_THEY_ARE = ("modules_to_save", "trainable_token_indices")
"""The options that choose weights to train whole, without a change of low rank."""

LOW_RANK = ("k", "lora_alpha", "lora_dropout", *PLACE, *AS_THEY_ARE)
"""The options of a product of two matrices of fixed rank k, without the head."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to fine-tune.

    It is data and not a base class, because the methods have nothing to inherit: most fields have a
    default that most methods keep, PEFT's methods are made in a loop over its registry, and tables
    and checks read fields of all methods without making one.

    Attributes:
        name: as users write it.
        label: as tables print it.
        source: where it was published.
        trains: what it trains, without the task's head, in a few words.
        formula: how many parameters that are; d_in × d_out is an adapted matrix.
        from_peft: whether it is made by PEFT's registry, and PEFT says what it cannot do: which
            modules it adapts, whether it merges, how it starts.

        options: names of the options of methods that it reads.
        defaults: options in which the method differs from the recipe of a task.
        check: checks options before anything is loaded; raises a UserError.
        resolve: returns options with those that others of them bring.

        count: takes the pretrained model (which may be without memory) and options; returns the
            number that `formula` gives, without the head.
        final: likewise, returns the fewest and the most parameters that pruning leaves, as a
            LoRA; None for a method that ends with what it trained.

        build: takes base model, options by name and optimizer steps; returns the model to train.
        callbacks: makes what the trainer needs.
        make_optimizer: makes the optimizer, given the model, the trainer's arguments and options;
            None leaves it to the trainer.
        start: whether the model computes at the start what the pretrained model does: to the last
            bit, nearly, or not at all.
        prunes: takes options; whether it makes the adapter smaller by a schedule.
        may_have_penalty: takes options; whether the loss has a penalty on its factors, whose weight
            may be 0.
        tokens_in_front: takes options; returns the tokens that it puts in front of each text; None
            for a method that puts none there.
        resumes: takes options; whether a training that was cut short can resume from a checkpoint.
        shards: whether DeepSpeed and FSDP2, which split weights or optimizer over processes, may
            train it.
        saves_wrapped: whether its adapter is saved from a model whose blocks FSDP has wrapped, to
            checkpoint them.
        head_alone: whether it trains the task's head and nothing else.
        whole: whether a whole model is saved, rather than an adapter.

        merges: whether what was trained can be put into the weights.
        as_lora: whether its adapter is a plain LoRA of PEFT's, or `lora2 export` writes the same
            change as one; "no" of PEFT's variants of LoRA, too, which are more than its factors.
        as_lora2: takes a trained model and the folder of its adapter; returns the model with a
            LoRA² adapter of the same change, which can be cut; None for a method without one.
    """

    # What it is
    name: str
    label: str
    source: str
    trains: str
    formula: str
    from_peft: bool = False

    # Its options
    options: Collection[str] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    check: Callable[[Options], None] = lambda options: None
    resolve: Callable[[Options], Options] = lambda options: options

    # Its size
    count: Callable[[PreTrainedModel, Options], int]
    final: Callable[[PreTrainedModel, Options], tuple[int, int]] | None = None

    # Its training
    build: Callable[[BaseModel, Options, int], nn.Module]
    callbacks: Callable[[], list[TrainerCallback]] = list
    make_optimizer: Callable[[Any, TrainingArguments, Options], Optimizer] | None = None
    start: Literal["same", "near", "other"] = "same"
    prunes: Callable[[Options], bool] = lambda options: False
    may_have_penalty: Callable[[Options], bool] = lambda options: False
    tokens_in_front: Callable[[Options], int] | None = None
    resumes: Callable[[Options], bool] = lambda options: True
    shards: bool = True
    saves_wrapped: bool = False
    head_alone: bool = False
    whole: bool = False

    # Its export
    merges: bool = True
    as_lora: Literal["is one", "written as one", "no"] = "no"
    as_lora2: Callable[[Any, Path], nn.Module] | None = None
