"""What allocation adds to the messages between the processes of a training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from communication import MATRICES, RANK

pytestmark = pytest.mark.slow


def test_allocation_adds_less_than_a_hundredth_of_the_gradients_messages() -> None:
    script = str(Path(__file__).parent / "communication.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=True
    )
    counted = json.loads(done.stdout)
    by_step = counted["by_step"]

    # The kept set is compared where it may change: at step 1, and then every fourth.
    unchanged = by_step[1]
    assert [name for name, _ in unchanged] == ["all_gather", "all_gather"]
    numbers = RANK * (2 * RANK + 1) * len(MATRICES)
    # Values and gradients, half of them here.
    assert sum(size for _, size in unchanged) == pytest.approx(2 * numbers * 4 / 2, rel=0.05)
    assert sum(size for _, size in unchanged) < 0.01 * counted["gradients"]
    changed = by_step[0]
    assert [name for name, _ in changed][2:] == ["broadcast", "all_reduce"]
    assert sum(size for _, size in changed[2:]) == RANK * len(MATRICES) + 1
    assert by_step[-1] == []
