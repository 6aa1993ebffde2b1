"""JSON that is parsed strictly: each fault by its kind."""

import math

import pytest

from lora2.support.strict_json import DEEPEST, JsonError, parse

FAULTS = {
    "half an object": ('{"k": 1', "syntax"),
    "a key twice": ('{"k": 1, "k": 2}', "repeated key"),
    "NaN": ("[NaN]", "not a number"),
    "infinite as a float": ("-1e999", "not a number"),
    "5,000 digits": ("1" * 5000, "too many digits"),
    "one list too deep": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "too deep"),
    "too deep for Python": ("[" * 100_000 + "]" * 100_000, "too deep"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_has_its_kind(case: str) -> None:
    text, fault = FAULTS[case]
    with pytest.raises(JsonError) as refusal:
        parse(text)
    assert refusal.value.fault == fault


def test_a_fault_names_the_key_and_what_is_no_number() -> None:
    with pytest.raises(JsonError) as refusal:
        parse('[{"a": {"k": 1, "k": 2}}]')
    assert refusal.value.name == "k"
    with pytest.raises(JsonError) as refusal:
        parse("[1e999]")
    assert refusal.value.name == "1e999"


def test_what_is_not_finite_is_null_or_read() -> None:
    text = "[NaN, -Infinity, 1e999, 1.5]"
    assert parse(text, not_finite="null") == [None, None, None, 1.5]
    read = parse(text, not_finite="read")
    assert math.isnan(read[0])
    assert read[1:] == [-math.inf, math.inf, 1.5]


def test_many_lists_beside_each_other_are_not_deep() -> None:
    text = f"[{', '.join(['[]'] * 1000)}]"
    assert len(parse(text)) == 1000
    deepest = "[" * DEEPEST + "]" * DEEPEST
    assert parse(deepest)
