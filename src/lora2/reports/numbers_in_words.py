"""Numbers of a run as tables and lines print them."""

from __future__ import annotations

import math

from transformers import TrainingArguments

# Larger numbers would have an exponent in three digits.
_LONG = 999.5


def epoch_in_words(epoch: float) -> str:
    """Return an epoch, which may be a part of one, in three digits or as a whole number."""
    return f"{epoch:.3g}" if epoch < _LONG else f"{epoch:,.0f}"


def size_in_words(final: tuple[int, int]) -> str:
    """Return the bounds of a final size as tables and `lora2 params` print them, also in kB.

    final: the fewest and the most parameters; equal where only the most is known.
    """
    # A number has four bytes in float32; the header of the file, which names tensors, is left out.
    kilobytes = [_kilobytes(4 * count) for count in final]
    counts = [f"{count:,}" for count in dict.fromkeys(final)]
    bound = "at most " if len(counts) == 1 else ""
    about = " to ".join(dict.fromkeys(kilobytes))
    return f"{bound}{' to '.join(counts)}, as a LoRA (about {about} kB)"


def _kilobytes(size: int) -> str:
    kilobytes = size / 1000
    return f"{kilobytes:,.0f}" if kilobytes >= 10 else f"{kilobytes:.2g}"


def steps_in_words(steps: int, rows: int, arguments: TrainingArguments) -> str:
    """Return the number of optimizer steps and how many of the training rows each takes."""
    batch = arguments.train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last:
        rows = math.ceil(rows / arguments.world_size) * arguments.world_size // batch * batch
    most = min(batch * arguments.gradient_accumulation_steps, rows)
    # The last step of an epoch takes what is left.
    up_to = "up to " if rows % most else ""
    return f"{steps:,} {_plural('step', steps)} of {up_to}{most:,} {_plural('row', most)}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
