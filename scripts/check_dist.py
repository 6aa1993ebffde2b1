"""Checks what `make dist` has built, and the wheel alone in an environment of its own.

python scripts/check_dist.py dist --constraints constraints.txt
"""

import argparse
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

_UNWANTED = re.compile(r"(^|/)(tests?|records|docs|examples|scripts|runs)/")
_RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)([^)]+)\)")


def check_wheel(wheel: Path) -> None:
    """The package alone, with its type marker and the tables of the paper."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    unwanted = [name for name in names if _UNWANTED.search(name)]
    assert not unwanted, f"in the wheel by mistake: {unwanted[:5]}"
    assert "lora2/py.typed" in names
    assert any(name.endswith("hyperparameters_lora2.csv") for name in names)
    links = _RELATIVE_LINK.findall(metadata)
    assert not links, f"README has relative links, which are dead on PyPI: {links[:5]}"


def check_sdist(sdist: Path) -> None:
    """Sources and tests, no records."""
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert not [name for name in names if name.split("/")[1:2] == ["records"]]
    assert any(name.endswith("/tests/oracle.py") for name in names)


def check_installed(wheel: Path, constraints: Path, folder: Path) -> None:
    """Installed without the sources, the package imports and answers."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    package = f"{wheel}[train]"
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints), package]
    subprocess.run(install, check=True)
    checks = (
        [str(python), "-c", "import lora2; print(lora2.__version__, lora2.__file__)"],
        [str(folder / "bin" / "lora2"), "--version"],
        [str(folder / "bin" / "lora2"), "train", "--help"],
    )
    for command in checks:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        print(done.stdout.splitlines()[0])


def main() -> int:
    """Run all checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--constraints", type=Path, required=True)
    options = parser.parse_args()
    (wheel,) = options.folder.glob("*.whl")
    (sdist,) = options.folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    folder = options.folder.resolve() / "environment"
    check_installed(wheel.resolve(), options.constraints.resolve(), folder)
    print(f"{wheel.name} and {sdist.name} are in order.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
