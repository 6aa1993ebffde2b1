"""What the authors of LoRA² and AdaLoRA trained each GLUE task with, from their released scripts.

The files hold options of `lora2 train` by name, one line a task.
"""

from __future__ import annotations

import csv
import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal


@cache
def released_options(method: Literal["lora2", "adalora"]) -> dict[str, dict[str, Any]]:
    """Return the options of a method's scripts by task."""
    path = files(__package__) / "released" / f"hyperparameters_{method}.csv"
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    # The numbers are JSON's, which tells whole ones from others.
    return {
        line.pop("task"): {name: json.loads(text) for name, text in line.items()} for line in lines
    }
