"""AdaLoRA, PEFT's own, with the calls in each step that nothing in PEFT or transformers makes."""

from __future__ import annotations

import warnings
from typing import Any

from peft import AdaLoraConfig
from peft.tuners.adalora import AdaLoraLayer
from torch import nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lora2.errors import UserError
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.checked_options import shared_config
from lora2.training.methods.method import AS_THEY_ARE, PLACE, Method, Options
from lora2.training.methods.starting import imported
from lora2.training.methods.wrapping import (
    place,
    trained_outside_head,
    wrap_with_head,
    wrapped_without_memory,
)
from lora2.tuners.base.names.peft_names import ROWS
from lora2.tuners.lora2.allocation.budget import steps_of


class AdaLoraCallback(TrainerCallback):
    """Calls AdaLoRA's `update_and_allocate` after each optimizer step, gradients still there."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Silence PEFT, which takes a matrix that kept nothing for one that was not gathered."""
        # The filter stays for the rest of the process, because every later save warns again.
        warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Prune; the steps are counted from 1, since AdaLoRA takes no budget in step 0."""
        model.base_model.update_and_allocate(state.global_step + 1)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Drop what was pruned, once all steps are done: until then PEFT keeps it as zeros."""
        for name, config in model.peft_config.items():
            if config.rank_pattern and state.global_step >= state.max_steps:
                model.base_model.resize_modules_by_rank_pattern(config.rank_pattern, name)


def config(model: PreTrainedModel, options: Options, steps: int) -> AdaLoraConfig:
    """Return PEFT's config, without the head; fractions of the training become steps.

    Raises:
        UserError: an invalid value, or a schedule without a step in which to prune.
    """
    checked = shared_config(options, "AdaLoRA")
    target = checked.target_r if checked.target_r is not None else checked.init_r
    if target >= checked.init_r or target != int(target):
        # PEFT fails in the middle of training for a target that is too large, and rounds a share.
        raise UserError(
            f"target_r={target}: AdaLoRA needs a whole number below init_r={checked.init_r}."
        )
    window = checked.window
    tinit, tfinal = (steps_of(part, steps) for part in window)
    # In its last step to prune AdaLoRA needs what an earlier one has measured.
    if tinit + tfinal >= steps or steps - tfinal < 2:
        raise UserError(
            f"tinit={window[0]} and tfinal={window[1]} take {tinit} + {tfinal} of the "
            f"{steps} optimizer steps and leave none in which to prune: make them smaller."
        )
    return AdaLoraConfig(
        init_r=checked.init_r,
        target_r=int(target),
        lora_alpha=checked.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=checked.lora_dropout,
        beta1=checked.beta1,
        beta2=checked.beta2,
        orth_reg_weight=checked.orth_reg_weight,
        tinit=tinit,
        tfinal=tfinal,
        deltaT=max(1, steps_of(checked.deltaT, steps)),
        total_step=steps,
        trainable_token_indices=checked.trainable_token_indices,
        **place(model, options),
    )


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    return wrap_with_head(base, config(base.model, options, steps), options)


def _count(model: PreTrainedModel, options: Options) -> int:
    # Sizes depend on init_r and on what is chosen, and on no other field.
    adapter = AdaLoraConfig(
        init_r=options["init_r"],
        total_step=1,
        trainable_token_indices=options.get(ROWS),
        **place(model, options),
    )
    adapted = wrapped_without_memory(model, adapter)
    for layer in adapted.modules():
        if isinstance(layer, AdaLoraLayer):
            # The ranks are not weights, but PEFT's copy of them on another device is trained.
            layer.ranknum.requires_grad_(False)
    return trained_outside_head(adapted)


METHOD = Method(
    name="adalora",
    label="AdaLoRA",
    source="Zhang et al. 2023, arXiv 2303.10512",
    trains="P Λ Q of each matrix, Λ pruned from init_r to target_r a matrix on average",
    formula="init_r (d_in + d_out) + init_r",
    build=_build,
    count=_count,
    options=(
        "init_r",
        "target_r",
        "lora_alpha",
        "lora_dropout",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "tinit",
        "tfinal",
        "deltaT",
        *PLACE,
        *AS_THEY_ARE,
    ),
    prunes=lambda options: True,
    may_have_penalty=lambda options: True,
    callbacks=lambda: [AdaLoraCallback()],
    # PEFT's scale is lora_alpha / init_r: it does not change as ranks are pruned.
    defaults={"init_r": 12, "target_r": 8.0, "lora_alpha": 16.0, "orth_reg_weight": 0.1},
    # PEFT keeps neither its averages nor its mask, and prunes all when it is resumed.
    resumes=lambda options: False,
    # PEFT ranks values by the tensors of one process, as if they were whole.
    shards=False,
    as_lora2=imported,
)
