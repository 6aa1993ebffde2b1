"""Keeps PEFT's tests that have rows of LoRA², and writes down how each of them ends."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from lora2 import Lora2Config

METHODS = {LoraConfig: "LoRA", Lora2Config: "LoRA2"}
# Parameters of tests in addition to their rows.
VALUES = {"autocast_adapter_dtype", "bias_arg", "dtype", "is_trainable", "low_cpu_mem_usage"}

outcomes: dict[str, list[str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the file that the outcomes are written to."""
    parser.addoption("--outcomes", type=Path, required=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what PEFT tests with LoRA's config alone."""
    of_lora2 = {_function(item) for item in items if "LoRA2" in _name(item)}
    kept = [item for item in items if _function(item) in of_lora2]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    for item in items:
        item.user_properties.append(("name", _name(item)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the outcome of a test, and its reason where it did not pass."""
    if report.when == "call" or not report.passed:
        outcomes[dict(report.user_properties)["name"]] = [report.outcome, _reason(report)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the outcomes."""
    session.config.getoption("--outcomes").write_text(json.dumps(outcomes, indent=1))


def _function(item: Any) -> str:
    return getattr(item, "originalname", item.name)


def _name(item: Any) -> str:
    """The test with its row, such as `test_merge_layers[Conv2d 1 LoRA2]`, and any other values."""
    values = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    row = values.pop("test_name", None) or METHODS.get(values.get("config_cls"), "")
    others = [value for name, value in values.items() if name in VALUES]
    return f"{_function(item)}[{', '.join([row, *map(str, others)])}]"


def _reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return "" if crash is None else crash.message
