"""Runs the code of README, docs and examples."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from forked_commands import ForkedCommands

ROOT = Path(__file__).parents[1]
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_blocks(page: Path) -> list[str]:
    """The Python blocks of a Markdown page."""
    return _PYTHON.findall(page.read_text(encoding="utf-8"))


def cells_of(notebook: Path) -> str:
    """The code of a notebook, its cells one after another."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def run_forked(code: str, folder: Path, forked: ForkedCommands) -> str:
    """Run code as a file in a folder, all packages imported; return what it printed."""
    script = folder / "pasted.py"
    script.write_text(code, encoding="utf-8")
    done = forked.call([], folder, program=str(script), seconds=300)
    assert done.code == 0, done.errors
    return done.output


def run(code: str, folder: Path) -> str:
    """Run code as a file in a folder, in a process of its own; return what it printed."""
    (folder / "pasted.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "pasted.py"],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
