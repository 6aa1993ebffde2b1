"""What `lora2` does before a command runs: fast answers, Ctrl-C, registration with PEFT."""

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import lora2
from lora2_cli.main import INTERRUPTED, showing_warnings_as_sentences

# As the script does that pip installs.
SCRIPT = "import sys; from lora2_cli.main import main; code = main()"
EXIT = "sys.exit(code)"
EXIT_IF_FAST = """
slow = {"lora2", "numpy", "peft", "torch", "transformers"} & sys.modules.keys()
sys.exit(f"imported {sorted(slow)}" if slow else code)
"""
PRESS = "import signal; signal.raise_signal(signal.SIGINT)"


def python(code: str, *arguments: str, first: Path | None = None) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with modules of the folder `first` before all others."""
    folders = [str(first)] if first else []
    path = os.pathsep.join([*folders, str(Path(lora2.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "printed", "error"),
    [
        (["--version"], 0, f"lora2 {lora2.__version__}\n", ""),
        (["--help"], 0, "usage: lora2 COMMAND [options]\n", ""),
        ([], 0, "usage: lora2 COMMAND [options]\n", ""),
        (["trian"], 2, "", "lora2: 'trian' is not a command of lora2; did you mean train?\n"),
        (["xyzzy"], 2, "", "lora2: 'xyzzy' is not a command of lora2; choose one of train, "),
    ],
    ids=str,
)
def test_an_answer_of_the_command_line_alone_imports_nothing_slow(arguments, code, printed, error):
    done = python(f"{SCRIPT}\n{EXIT_IF_FAST}", *arguments)
    assert done.stdout.startswith(printed)
    assert done.stderr.startswith(error)
    assert (bool(done.stdout), bool(done.stderr)) == (bool(printed), bool(error))
    assert done.returncode == code


@pytest.mark.parametrize(
    "content",
    [
        PRESS,
        f"try: {PRESS}\nexcept BaseException: pass",
        f"try: {PRESS}\nexcept BaseException: raise ImportError('half imported') from None",
    ],
    ids=["raised", "caught", "turned into an ImportError"],
)
def test_ctrl_c_during_the_imports_of_a_command_prints_one_line(content, tmp_path):
    package = tmp_path / "lora2" / "commands"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "params.py").write_text(f"{content}\ndef execute(arguments): print('executed')")
    done = python(f"{SCRIPT}\n{EXIT}", "params", first=tmp_path)
    assert done.stderr == "Interrupted.\n"
    assert done.stdout == ""
    assert done.returncode == INTERRUPTED


def test_a_variable_that_a_package_cannot_follow_is_one_sentence(tmp_path, monkeypatch):
    package = tmp_path / "lora2" / "commands"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "params.py").write_text("import os\nint(os.environ['SOME_TIMEOUT'])")
    monkeypatch.setenv("SOME_TIMEOUT", "soon")
    done = python(f"{SCRIPT}\n{EXIT}", "params", first=tmp_path)
    assert done.stderr.startswith("lora2: SOME_TIMEOUT=soon, an environment variable, cannot be")
    assert (done.stdout, done.returncode) == ("", 2)


@pytest.mark.slow
def test_importing_the_package_alone_registers_its_methods_with_peft():
    done = python(
        "import lora2, peft\n"
        "print(*({'LORA2', 'SORA', 'BOTTLENECK'} & set(peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING)))"
    )
    assert sorted(done.stdout.split()) == ["BOTTLENECK", "LORA2", "SORA"], done.stderr


def test_python_runs_the_package_as_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora2", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("lora2", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"lora2 {lora2.__version__}\n"


@pytest.mark.parametrize(
    ("category", "shown"),
    [
        (UserWarning, "Warning: a sentence.\n"),
        (RuntimeWarning, "file.py:3: RuntimeWarning: a sentence.\n"),
    ],
)
def test_warning_for_users_is_shown_without_code(category, shown):
    usual = warnings.formatwarning
    with showing_warnings_as_sentences():
        assert warnings.formatwarning("a sentence.", category, "file.py", 3, "") == shown
    assert warnings.formatwarning is usual
