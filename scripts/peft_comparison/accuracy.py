"""Which share of answers is right, by what they end in, as PEFT's comparison has it."""

from __future__ import annotations

from collections.abc import Sequence

# What comes before the answer, in MetaMathQA and in GSM8K; the first that a text has counts.
_BEFORE = (
    "The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ",
)  # fmt: skip


def parsed_answer(text: str) -> str | None:
    """Return what a text gives as its answer, as PEFT's comparison reads it; None without one."""
    text = text.strip().rstrip(".!?")
    before = next((each for each in _BEFORE if each in text), None)
    if before is None:
        return None
    # A percent sign is left out, since GSM8K has none.
    return text.rpartition(before)[2].strip().partition("\n")[0].strip(" .!?$%")


def answer_accuracy(written: Sequence[str], right: Sequence[str]) -> float:
    """Return the share of texts whose answer is that of the right one, as number or as text."""
    pairs = zip(map(parsed_answer, written), map(parsed_answer, right), strict=True)
    same = [found is not None and _value(found) == _value(answer or "") for found, answer in pairs]
    return sum(same) / len(same)


def _value(answer: str) -> float | str:
    """Return a number or a fraction as a float, and anything else as it is."""
    above, *below = answer.split("/")
    try:
        return float(above) / float(*below) if below else float(above)
    # More than one stroke is a TypeError.
    except (TypeError, ValueError, ZeroDivisionError):
        return answer
