"""The share of prompts that a language model answers exactly right, before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lora2.data.tasks.metric_names import EXACT_MATCH
from lora2.data.tasks.writing_task import Prompt, prompt_and_answer
from lora2.errors import UserError
from lora2.support.evaluation_mode import in_evaluation
from lora2.training.base_models.generation import generate

Question = tuple[Prompt, str]


def questions_in(rows: Iterable[Mapping[str, Any]], limit: int | None = None) -> list[Question]:
    """Return the prompts with their right answers, of the first rows that have one.

    Raises:
        UserError: no row has an answer.
    """
    found = [question for row in rows if (question := prompt_and_answer(row)) is not None]
    if not found:
        raise UserError(
            "exact_match_rows: no validation row ends in one answer of the assistant to compare "
            "with; write 0, or add some that do."
        )
    return found[:limit]


def exact_match(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> float:
    """Return the share of questions that are answered exactly right, blanks around left aside."""
    written = generate(
        model,
        tokenizer,
        [prompt for prompt, _ in questions],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    return share_of_exact(list(written), [answer for _, answer in questions])


def share_of_exact(written: Sequence[str], answers: Sequence[str]) -> float:
    """Return the share of texts that are exactly the right answers, blanks around left aside."""
    right = [
        answer.strip() == found.strip() for found, answer in zip(written, answers, strict=True)
    ]
    return sum(right) / len(right)


class ExactMatchCallback(TrainerCallback):
    """Scores the model before the first step and after the last one, as evaluations of the run.

    They are in the trainer's history, and so in every checkpoint and in metrics.jsonl.
    """

    def __init__(
        self,
        trainer: Trainer,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        max_new_tokens: int,
    ) -> None:
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._questions = questions
        self._max_new_tokens = max_new_tokens

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score the pretrained model, unless the run is resumed."""
        if state.global_step == 0:
            self._evaluate(args, state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score what was trained."""
        self._evaluate(args, state, control)

    def _evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> None:
        model: Any = self._trainer.accelerator.unwrap_model(self._trainer.model)
        with in_evaluation(model):
            value = exact_match(
                model,
                self._tokenizer,
                self._questions,
                max_new_tokens=self._max_new_tokens,
                batch_size=args.per_device_eval_batch_size,
            )
        metrics = {f"eval_{EXACT_MATCH}": value}
        place = {"step": state.global_step, "epoch": state.epoch or 0}
        state.log_history.append(metrics | place)
        self._trainer.callback_handler.on_evaluate(args, state, control, metrics)
