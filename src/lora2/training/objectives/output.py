"""The kinds of output of a trained model: labels or tags for texts, labels for images, texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """One kind of output.

    Attributes:
        command: the command line that makes use of a run with it.
        instead: what to say, after the run's name, where another output is needed.
        lacks: why options of objectives with another output have no effect, if there is more to say
            than that they are of others.
    """

    command: str
    instead: str
    lacks: str | None = None


LABELS = Output(
    command="lora2 predict RUN --file texts.csv",
    instead="has learnt labels and cannot write texts; use `lora2 predict`",
)
TAGS = Output(
    command="lora2 predict RUN --file texts.jsonl",
    instead="has learnt tags of words and cannot write texts; use `lora2 predict`",
)
IMAGES = Output(
    command="lora2 predict RUN --file images",
    instead="has learnt labels of images and cannot write texts; use `lora2 predict`",
)
TEXTS = Output(
    command='lora2 generate RUN --prompt "..."',
    instead="has learnt to write texts and has no labels; use `lora2 generate`",
    lacks="which has no labels",
)
