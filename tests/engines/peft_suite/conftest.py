"""Keeps PEFT's tests that are run for LoRA² too, and writes down how each ends."""

import json
from pathlib import Path

import pytest

outcomes: dict[str, list[str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the file that the outcomes are written to."""
    parser.addoption("--outcomes", type=Path, required=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what PEFT tests with LoRA's config alone."""
    names = {name.partition("[")[0] for name in map(_name, items) if "LoRA2" in name or "Lora2" in name}
    kept = [item for item in items if _name(item).partition("[")[0] in names]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the outcome of a test, and its reason where it did not pass."""
    if report.when == "call" or not report.passed:
        name = report.nodeid.partition("::")[2]
        outcomes[name] = [report.outcome, _reason(report)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the outcomes."""
    session.config.getoption("--outcomes").write_text(json.dumps(outcomes, indent=1))


def _name(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[2]


def _reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return "" if crash is None else crash.message
