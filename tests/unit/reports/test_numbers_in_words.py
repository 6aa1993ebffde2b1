"""Numbers as tables and lines print them."""

from pathlib import Path

import pytest

from lora2.reports.numbers_in_words import epoch_in_words, size_in_words, steps_in_words
from unit.training_case import arguments


@pytest.mark.parametrize(
    ("epoch", "shown"),
    [(0.125, "0.125"), (1.25, "1.25"), (12.34, "12.3"), (999.4, "999"), (999.6, "1,000"),
     (1234.0, "1,234"), (123456.0, "123,456")],
)  # fmt: skip
def test_epochs_have_no_exponent(epoch: float, shown: str) -> None:
    assert epoch_in_words(epoch) == shown


@pytest.mark.parametrize(
    ("bounds", "shown"),
    [
        ((64, 64), "at most 64, as a LoRA (about 0.26 kB)"),
        ((400, 600), "400 to 600, as a LoRA (about 1.6 to 2.4 kB)"),
        ((2496, 2500), "2,496 to 2,500, as a LoRA (about 10 kB)"),
        ((110_592, 276_480), "110,592 to 276,480, as a LoRA (about 442 to 1,106 kB)"),
    ],
)
def test_kilobytes_tell_apart_what_they_can(bounds: tuple[int, int], shown: str) -> None:
    assert size_in_words(bounds) == shown


@pytest.mark.parametrize(
    ("rows", "fields", "shown"),
    [
        (64, {}, "9 steps of 32 rows"),
        (4, {}, "9 steps of 4 rows"),
        (40, {}, "9 steps of up to 32 rows"),
        (40, {"dataloader_drop_last": True}, "9 steps of 32 rows"),
        # Three batches are left where four are to be accumulated.
        (96, {"gradient_accumulation_steps": 4}, "9 steps of 96 rows"),
        (96, {"gradient_accumulation_steps": 2}, "9 steps of up to 64 rows"),
        (1, {}, "9 steps of 1 row"),
    ],
    ids=str,
)
def test_a_step_takes_no_more_rows_than_there_are(
    rows: int, fields: dict[str, int], shown: str, tmp_path: Path
) -> None:
    given = arguments(tmp_path, per_device_train_batch_size=32, **fields)
    assert steps_in_words(9, rows, given) == shown
