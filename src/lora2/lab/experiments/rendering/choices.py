"""Chosen learning rates as a table for the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lora2.lab.experiments.tuning import Choice


def choices_table(choices: Sequence[Choice]) -> Table:
    """Return the chosen learning rates, and the trials of each choice, one a line."""
    table = Table(title="learning rates", title_justify="left")
    table.add_column("task / setting")
    table.add_column("chosen", justify="right")
    table.add_column("tried: what they reached")
    for choice in choices:
        tried = "\n".join(
            f"{rate:g}: {'none' if value is None else format(value, '.4f')}"
            for rate, value in choice.trials
        )
        rate = choice.learning_rate
        table.add_row(choice.experiment, "none" if rate is None else f"{rate:g}", tried)
    return table
