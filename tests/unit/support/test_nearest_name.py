"""The name that is offered in place of an unknown one."""

import pytest

from lora2.support.nearest_name import nearest

KNOWN = ("learning_rate", "max_length", "target_modules")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("learnin_rate", "learning_rate"),
        ("target_module", "target_modules"),
        ("lr", "learning_rate"),
        ("ml", "max_length"),
        ("greater_is_better", None),
        ("", None),
    ],
)
def test_nearest(written: str, meant: str | None) -> None:
    assert nearest(written, KNOWN) == meant
