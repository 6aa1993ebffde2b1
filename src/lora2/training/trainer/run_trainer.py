"""The trainer of all runs with labels, and what those of all runs share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from peft.tuners.adalora import AdaLoraModel
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer

from lora2.errors import NumericalError, UserError
from lora2.support.error_text import clause_of
from lora2.trainers.divergence import ADVICE
from lora2.training.on_disk.checkpoints import checkpoints_by_age, fault_of
from lora2.training.trainer.head_rate import give_own_rate
from lora2.training.trainer.step_check import check_step, check_trained_weights
from lora2.training.trainer.weighted_steps import WeightedSteps

# torch before 2.9 does not have it.
_DeviceError = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
# torch and transformers raise these for a state of another training, or a file that is no state.
_NO_SUCH_STATE = (
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)

if TYPE_CHECKING:
    # `RunBase` is mixed into this class or one of its subclasses.
    from transformers import Trainer as _Base
else:
    _Base = object


class RunBase(_Base):
    """What the trainers of all runs have: mixed into one of transformers' or TRL's."""

    _head: Sequence[nn.Parameter] = ()
    _head_learning_rate: float | None = None
    _make_optimizer: Callable[[], Optimizer] | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # They are the losses and inputs of the optimizer step at which the training is.
        self._micro_batches: list[tuple[torch.Tensor, Any]] = []

    def plan_optimizer(
        self,
        make: Callable[[], Optimizer] | None,
        head: Sequence[nn.Parameter],
        head_learning_rate: float | None,
    ) -> None:
        """Set what the optimizer will be.

        make: makes it; None leaves it to transformers.
        head_learning_rate: the rate of the parameters in `head`; None leaves them that of the run.
        """
        self._make_optimizer = make
        self._head, self._head_learning_rate = head, head_learning_rate

    def create_optimizer(self, *arguments: Any, **named: Any) -> Optimizer:
        """Return the optimizer, in which the head has its learning rate."""
        trainer: Any = self
        is_new = trainer.optimizer is None
        if is_new and self._make_optimizer is not None:
            trainer.optimizer = self._make_optimizer()
        optimizer: Optimizer = super().create_optimizer(*arguments, **named)
        if is_new and self._head_learning_rate is not None:
            give_own_rate(optimizer, self._head, self._head_learning_rate)
        return optimizer

    def get_eval_dataloader(self, *arguments: Any, **named: Any) -> Any:
        """Return the batches to score, the last one as well where training leaves its own out."""
        options: Any = self.args
        drops, options.dataloader_drop_last = options.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(*arguments, **named)
        finally:
            options.dataloader_drop_last = drops

    def training_step(
        self, model: nn.Module, inputs: Any, *arguments: Any, **named: Any
    ) -> torch.Tensor:
        """Return the loss of a batch, after its backward pass.

        Raises:
            NumericalError: it, or a gradient of the step, is NaN or infinite.
        """
        loss: torch.Tensor = super().training_step(model, inputs, *arguments, **named)
        # float16's loss scaler expects overflows and leaves out those steps by itself.
        if self.args.mixed_precision == "fp16":
            return loss
        self._micro_batches.append((loss, inputs))
        if self.accelerator.sync_gradients:
            done, self._micro_batches = self._micro_batches, []
            losses, batches = zip(*done, strict=True)
            compute = partial(self._compute_again, model, batches)
            check_step(self.model, losses, self.state.global_step + 1, compute)
        return loss

    def _compute_again(self, model: nn.Module, batches: Sequence[Any], number: int) -> None:
        self.compute_loss(model, self._prepare_inputs(batches[number]))

    def _get_grad_norm(self, *arguments: Any, **named: Any) -> Any:
        # DeepSpeed clears the gradients within the backward pass, and leaves out a step whose norm
        # is not finite without a word.
        norm = super()._get_grad_norm(*arguments, **named)
        if self._engine_lost_gradients(norm):
            # The callbacks of a method may know in which layer it arose.
            self.callback_handler.on_pre_optimizer_step(self.args, self.state, self.control)
            step = self.state.global_step + 1
            raise NumericalError(f"NaN or infinity in a gradient at step {step}: {ADVICE}")
        return norm

    def _engine_lost_gradients(self, norm: float | None) -> bool:
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            return False
        # With float16 the engine has a loss scaler, which expects overflows.
        if self.accelerator.deepspeed_engine_wrapped.engine.fp16_enabled():
            return False
        # Some versions of DeepSpeed write -1 for a norm that is not finite.
        is_lost = norm is not None and (norm < 0 or not math.isfinite(norm))
        return is_lost or self.accelerator.optimizer_step_was_skipped

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        # Weights with NaN or infinity must not replace a good checkpoint.
        check_trained_weights(self.model, self.state.global_step)
        super()._save_checkpoint(*arguments, **named)

    def _save(self, *arguments: Any, **named: Any) -> None:
        model: Any = self.model
        if isinstance(model, PeftModel):
            # Once tokens have been added, PEFT would save the whole embedding in every checkpoint.
            of_kind = {"save_embedding_layers": False}
        elif isinstance(model, PreTrainedModel):
            # A checkpoint is loaded by the names that tensors have in memory, and for some types of
            # model these differ from the names in their files.
            of_kind = {"save_original_format": False}
        else:
            super()._save(*arguments, **named)
            return
        model.save_pretrained = partial(model.save_pretrained, **of_kind)
        try:
            super()._save(*arguments, **named)
        finally:
            del model.save_pretrained

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # This is called for a model that is trained whole. transformers would train what the
        # model has in memory instead.
        held = self.model.state_dict(keep_vars=True)
        never_saved = getattr(self.model, "_keys_to_ignore_on_save", None) or ()
        missing = [name for name in load_result.missing_keys if name not in never_saved]
        loaded = {id(tensor) for name, tensor in held.items() if name not in missing}
        # A tied weight is in the file under one of its names.
        lacks = [name for name in missing if id(held.get(name)) not in loaded]
        if lacks or load_result.unexpected_keys:
            fault = f"lack {lacks[0]}" if lacks else f"hold {load_result.unexpected_keys[0]}"
            raise UserError(
                f"resume: the weights of the checkpoint {fault}, so they are of another model or "
                "were saved by an older version of lora2; start over with --overwrite."
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _naming_state(checkpoint, "optimizer and schedule"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _naming_state(checkpoint, "random numbers"):
            super()._load_rng_state(checkpoint)

    def _run_epoch(self, **kwargs: Any) -> None:
        # If a training had ended within an epoch and is resumed, transformers 5.23 does one
        # more step before it looks whether any are left.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)


@contextmanager
def _naming_state(checkpoint: str | None, what: str) -> Iterator[None]:
    """Load a part of a checkpoint; what does not fit is an error of the user's files."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError, _DeviceError):
        raise
    except _NO_SUCH_STATE as error:
        # torch advises to unpickle the file, which may run any code.
        is_other_file = isinstance(error, UnpicklingError)
        reason = "its file holds something else" if is_other_file else clause_of(error)
        advice = (
            "remove that folder to resume from an earlier checkpoint"
            if checkpoint is not None and _has_earlier(Path(checkpoint))
            else "there is no other complete checkpoint, so start over with --overwrite"
        )
        raise UserError(
            f"resume: the state of {what} in {checkpoint} is of another run or damaged "
            f"({reason}); {advice}."
        ) from error


def _has_earlier(checkpoint: Path) -> bool:
    """Whether there is another checkpoint to resume from, should this one be removed."""
    others = (each for each in checkpoints_by_age(checkpoint.parent) if each != checkpoint)
    return any(fault_of(each) is None for each in others)


class RunTrainer(WeightedSteps, RunBase, Trainer):
    """The trainer of all runs with labels."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # transformers 5.23 takes a `**kwargs` in the model's forward for the promise that the loss
        # is divided by the samples of the whole optimizer batch. Classification heads ignore the
        # number they are handed and return a mean, so that n accumulated micro-batches would give
        # n times the gradient.
        self.model_accepts_loss_kwargs = False

    def prediction_step(self, model: nn.Module, *arguments: Any, **named: Any) -> Any:
        """Return loss, logits and labels of a batch; PEFT's AdaLoRA counts its penalty here too."""
        wrapped: Any = self.accelerator.unwrap_model(model)
        if isinstance(wrapped, PeftModel) and isinstance(wrapped.base_model, AdaLoraModel):
            model = wrapped.base_model.model
        # Only the outermost model's forward has mixed precision, and this may be an inner model.
        with self.accelerator.autocast():
            return super().prediction_step(model, *arguments, **named)
