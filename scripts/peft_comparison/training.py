"""Trains and scores a model by the protocol of PEFT's comparison."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler, autocast
from transformers import PreTrainedTokenizerBase

from lora2.errors import NumericalError
from lora2.support.error_text import in_one_sentence
from peft_comparison.batches import Batch, training_batches
from peft_comparison.evaluation import accuracy_on, answers, loss_on_other_texts
from peft_comparison.experiment import Experiment
from peft_comparison.memory import Memory
from peft_comparison.model import build_optimizer
from peft_comparison.task_data import TaskData
from peft_comparison.train_config import FILE

_EMPTY_CACHE_STEPS = 10


@dataclass
class Progress:
    """What a training has come to; a training that is stopped leaves the part that it did.

    Attributes:
        metrics: one entry for each evaluation, the last of the test set.
        train_time: seconds, without those of the evaluations on validation rows.
    """

    trainable: int
    parameters: int
    losses: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    samples: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    train_time: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    evaluation_time: float = 0.0

    def stop_clock(self) -> None:
        """Note how long the training took."""
        self.train_time = time.perf_counter() - self.started - self.evaluation_time


class Training:
    """One training of a model that has its adapter.

    Raises:
        UserError: an optimizer that cannot be.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: TaskData,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        device: str,
        memory: Memory,
        report: Callable[[str], None],
    ) -> None:
        self.experiment, self.data, self.model, self.memory = experiment, data, model, memory
        self._tokenizer, self._report = tokenizer, report
        self._step = OptimizerStep(experiment, model, device)

    def check_generation(self) -> None:
        """Answer one question before the training, since nothing else shows what cannot be.

        Raises:
            UserError: no answer is written, or more than one.
        """
        config = self.experiment.train
        what = f"generation_kwargs of {FILE}, {config.generation_kwargs}, cannot be used"
        query, _ = self.data.validation[0]
        self.model.eval()
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        # What is drawn here must not change the training.
        with torch.random.fork_rng(devices), in_one_sentence(what, "correct them"):
            found = answers([query], self.model, self._tokenizer, config)
            if len(found) != 1:
                raise ValueError(f"{len(found)} answers to one question")

    def run(self, progress: Progress) -> None:
        """Train, evaluate every `eval_steps` steps, and score the test set."""
        config = self.experiment.train
        other_before = self._other_loss()
        self.model.train()
        batches = training_batches(self.data.train, self._tokenizer, config)
        for step, batch in zip(range(1, config.max_steps + 1), batches, strict=False):
            start = time.perf_counter()
            progress.losses.append(_finite(self._step.learn(batch, step), step))
            progress.samples += batch.rows
            progress.tokens.append(batch.tokens)
            self.memory.log_step()
            progress.durations.append(time.perf_counter() - start)
            if step % config.eval_steps == 0:
                self._evaluate(progress, step)
            if step % _EMPTY_CACHE_STEPS == 0:
                self.memory.empty_cache()
        self._test(progress, other_before)

    def _evaluate(self, progress: Progress, step: int) -> None:
        start = time.perf_counter()
        self.model.eval()
        score = self._accuracy(self.data.validation)
        self.model.train()
        end = time.perf_counter()
        progress.evaluation_time += end - start
        count = self.experiment.train.eval_steps
        seconds = sum(progress.durations[-count:])
        progress.metrics.append(
            {
                "step": step,
                "valid accuracy": score,
                "train loss": sum(progress.losses[-count:]) / count,
                "train samples": progress.samples,
                "train time": seconds,
                "eval time": end - start,
                "tokens / sec": sum(progress.tokens[-count:]) / seconds,
                "mem allocated avg": sum(self.memory.allocated_log[-count:]) / count,
                "mem reserved avg": sum(self.memory.reserved_log[-count:]) / count,
                "elapsed time": end - progress.started,
            }
        )
        loss = progress.metrics[-1]["train loss"]
        self._report(f"step {step}: loss {loss:.4f}, accuracy on validation rows {score:.3f}")

    def _test(self, progress: Progress, other_before: tuple[float, float]) -> None:
        self.model.eval()
        score = self._accuracy(self.data.test)
        after = self._other_loss()
        count = self.experiment.train.eval_steps
        progress.metrics.append(
            {
                "step": len(progress.losses),
                "test accuracy": score,
                "train loss": sum(progress.losses[-count:]) / count,
                "train samples": progress.samples,
                "train total tokens": sum(progress.tokens),
                "forgetting": after[0] - other_before[0],
                "forgetting of the next token": after[1] - other_before[1],
            }
        )
        self._report(f"accuracy on test rows {score:.3f}")

    def _accuracy(self, rows: Any) -> float:
        config, accuracy = self.experiment.train, self.data.accuracy
        return accuracy_on(rows, self.model, self._tokenizer, config, accuracy)

    def _other_loss(self) -> tuple[float, float]:
        self.model.eval()
        return loss_on_other_texts(
            self.data.other, self.model, self._tokenizer, self.experiment.train
        )


def _finite(loss: float, step: int) -> float:
    """Return a loss.

    Raises:
        NumericalError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NumericalError(
            f"NaN or infinity in the loss of step {step}: write a smaller lr in optimizer_kwargs, "
            "or another dtype."
        )
    return loss


class OptimizerStep:
    """An optimizer step, with what comes after it.

    Raises:
        UserError: an optimizer that cannot be.
    """

    def __init__(self, experiment: Experiment, model: Any, device: str) -> None:
        self._config, self._model, self._device = experiment.train, model, device
        self._optimizer, self._schedule = build_optimizer(model, experiment)
        self._scaler = GradScaler(device, enabled=self._config.use_amp)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        # LoRA² and AdaLoRA have it, and prune by it after each step.
        tuner = getattr(model, "base_model", None)
        self._allocate = getattr(tuner, "update_and_allocate", None)

    def learn(self, batch: Batch, step: int) -> float:
        """Make one step, counted from 1, and return the loss before it."""
        inputs = {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.inputs.items()
        }
        self._optimizer.zero_grad()
        with autocast(self._device, enabled=self._config.use_amp):
            loss = self._model(**inputs).loss
        self._scaler.scale(loss).backward()
        if self._config.grad_norm_clip:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._trained, self._config.grad_norm_clip)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._scaler.get_scale() < scale:
            self._forget_gradients()
        self._schedule.step()
        if self._allocate is not None:
            self._allocate(step)
        return float(loss.detach())

    def _forget_gradients(self) -> None:
        """Set gradients that overflowed to zero: the optimizer left them out, pruning does not."""
        for parameter in self._trained:
            if parameter.grad is not None:
                parameter.grad.zero_()
