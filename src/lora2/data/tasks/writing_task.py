"""WritingTask: texts that a language model learns to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from lora2.data.tasks.task import Task

Form = Literal["chat", "prompt_completion", "text", "preference", "preference_pair"]


class RowForm(NamedTuple):
    """How a row of texts is written.

    Attributes:
        columns: the columns of the datasets.
        named: what a user names in `text_columns`.
        holds: what a user writes into a column.
    """

    columns: tuple[str, ...]
    named: str
    holds: str


FORMS: dict[Form, RowForm] = {
    "chat": RowForm(
        ("messages",), "messages", 'a list of messages such as [{"role": "user", "content": "…"}]'
    ),
    "prompt_completion": RowForm(
        ("prompt", "completion"),
        "prompt and completion",
        "a text, or a list of messages with role and content",
    ),
    "text": RowForm(("text",), "one column of texts", "a text"),
    "preference": RowForm(
        ("prompt", "chosen", "rejected"),
        "prompt, chosen and rejected",
        "a text, or a list of messages with role and content",
    ),
    # The prompt is the beginning that both answers share.
    "preference_pair": RowForm(
        ("chosen", "rejected"),
        "chosen and rejected",
        "a text, or a list of messages with role and content",
    ),
}

TO_WRITE: tuple[Form, ...] = ("chat", "prompt_completion", "text")
"""The forms with a text to write."""

PREFERENCES: tuple[Form, ...] = ("preference", "preference_pair")
"""The forms with two answers, of which one is better."""

Message = Mapping[str, str]
# A prompt is a text, which is not changed, or the messages before an answer.
Prompt = str | Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class WritingTask(Task):
    """A task of texts: sets with the columns that `FORMS` names for their form.

    The metrics are "exact_match", where answers are generated, and "mean_token_accuracy"; of
    preferences "rewards/accuracies" and "rewards/margins".

    Attributes:
        form: how a row is written.
        conversational: whether prompts and completions are messages, rather than bare text.
        system: the system message that all training rows begin with, if they do.
        columns: the columns of the *source*, see `FORMS` for those of the datasets.
    """

    described: ClassVar[Mapping[str, Any]] = {
        **Task.described,
        "form": Form,
        "conversational": bool,
        "system": str | None,
        "columns": list[str],
    }

    form: Form
    conversational: bool
    system: str | None
    columns: tuple[str, ...]


def prompt_and_answer(row: Mapping[str, Any]) -> tuple[Prompt, str] | None:
    """Return what a model is asked and the right answer; None where a row has no answer."""
    if "completion" in row:
        completion = row["completion"]
        if isinstance(completion, str):
            return row["prompt"], completion
        return (row["prompt"], completion[0]["content"]) if len(completion) == 1 else None
    messages = row.get("messages")
    # A message without one before it answers nothing.
    if not messages or len(messages) < 2 or messages[-1]["role"] != "assistant":
        return None
    return messages[:-1], messages[-1]["content"]


def as_prompt(text: str, task: Mapping[str, Any]) -> Prompt:
    """Return a user's words as a prompt of a task, of which `task` is the description."""
    if not task["conversational"]:
        return text
    system = [] if task["system"] is None else [{"role": "system", "content": task["system"]}]
    return [*system, {"role": "user", "content": text}]
