"""What answers at once, without the seconds that PEFT, transformers and torch take to import."""

import subprocess
import sys
from pathlib import Path

import pytest

from lora2_cli.version import __version__

HEAVY = ("lora2", "numpy", "peft", "torch", "transformers")
RUN = """
import sys
from lora2_cli.main import main
code = main(sys.argv[1:])
print("imported:", *(name for name in {heavy!r} if name in sys.modules))
sys.exit(code)
"""


def started(*words: str, code: str = RUN, path: Path | None = None) -> subprocess.CompletedProcess:
    source = code.replace("{heavy!r}", repr(HEAVY))
    if path is not None:
        source = f"import sys; sys.path.insert(0, {str(path)!r})\n{source}"
    return subprocess.run(
        [sys.executable, "-c", source, *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--version"], 0, f"lora2 {__version__}"),
        (["--help"], 0, "usage: lora2 COMMAND [options]"),
        ([], 0, "usage: lora2 COMMAND [options]"),
        (["trian"], 2, "lora2: 'trian' is not a command of lora2; did you mean train?"),
        (["nothing"], 2, "choose one of train,"),
    ],
    ids=str,
)
def test_it_is_answered_without_the_package(words, code, said):
    done = started(*words)
    assert done.returncode == code
    assert said in (done.stdout if code == 0 else done.stderr)
    assert done.stdout.endswith("imported:\n")
    assert done.stderr.count("\n") == (code == 2)


def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    (tmp_path / "lora2").mkdir()
    (tmp_path / "lora2" / "__init__.py").write_text("raise KeyboardInterrupt\n")
    done = started("train", path=tmp_path)
    assert done.returncode == 130
    assert done.stderr == "Interrupted.\n"


def test_importing_the_package_registers_the_methods_with_peft():
    code = """
import lora2
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as configs
print(configs[PeftType.LORA2] is lora2.Lora2Config, PeftType.SORA in configs)
"""
    done = started(code=code)
    assert done.stdout == "True True\n", done.stderr


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "lora2", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"lora2 {__version__}\n"
