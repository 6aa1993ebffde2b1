"""PEFT's test_custom_models with LoRA² rows: all that LoRA passes, but for listed differences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.peft_suite.differences import FUNCTIONS, TESTS, Difference

pytestmark = pytest.mark.engines

SUITE = Path(__file__).parent / "peft_suite"
# The unpacked source distribution of the PEFT that constraints.txt names.
SOURCES = Path(sys.prefix) / "peft-sources"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """How each test ends for LoRA's rows and for those of LoRA²: the outcome, and what it says."""
    if not SOURCES.is_dir():
        pytest.skip("`make test-engines` downloads PEFT's tests")
    path = tmp_path_factory.mktemp("peft") / "outcomes.json"
    # In a process of its own: PEFT's tests have other settings, and warnings that are no errors.
    command = [
        sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", SUITE, "--confcutdir", SUITE,
        "-p", "no:cacheprovider", "-p", "recorder", "-q", "--tb=no", "-W", "ignore",
        "--outcomes", path, "suite.py",
    ]  # fmt: skip
    folders = [SOURCES, SUITE, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run(command, cwd=SUITE, env=environment, capture_output=True, text=True)
    assert path.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return {name: (outcome, says) for name, (outcome, says) in json.loads(path.read_text()).items()}


def test_lora2_passes_what_lora_passes(outcomes: dict[str, tuple[str, str]]) -> None:
    found, listed = {}, {}
    for name, (outcome, says) in of_lora2(outcomes).items():
        expected = expected_of(name)
        if outcome != "passed":
            found[name] = outcome, says
        if expected is not None:
            listed[name] = expected
    unlisted = {name: each for name, each in found.items() if name not in listed}
    assert not unlisted, "not listed in peft_suite/differences.py"
    passing = [name for name in listed if name not in found]
    assert not passing, "passes now: take it out of peft_suite/differences.py"
    otherwise = {
        name: each
        for name, each in found.items()
        if each[0] != listed[name].outcome or listed[name].says not in each[1]
    }
    assert not otherwise, "ends otherwise than peft_suite/differences.py says"


def test_every_listed_difference_is_one_of_a_test(outcomes: dict[str, tuple[str, str]]) -> None:
    names = of_lora2(outcomes)
    assert TESTS.keys() <= names.keys()
    assert FUNCTIONS.keys() <= {name.partition("[")[0] for name in names}


def test_most_tests_were_run(outcomes: dict[str, tuple[str, str]]) -> None:
    assert len([name for name in of_lora2(outcomes) if outcomes[name][0] == "passed"]) > 600


def of_lora2(outcomes: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Of the tests with LoRA² that LoRA passes, or that fail, how they end."""
    twins = {name.replace("LoRA", "LoRA2"): name for name in outcomes if "LoRA2" not in name}
    return {
        name: outcomes[name]
        for name, twin in twins.items()
        if outcomes[twin][0] == "passed" or outcomes[name][0] == "failed"
    }


def expected_of(name: str) -> Difference | None:
    """The listed difference of a test."""
    return TESTS.get(name) or FUNCTIONS.get(name.partition("[")[0])
