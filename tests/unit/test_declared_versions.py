"""What pyproject.toml and README.md promise: versions that are tested, links that lead to files."""

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lora2.training.options.derived_options import derived
from lora2.training.options.trainer_options import TRAINING_LEFT_OUT

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def required(extra: str | None) -> Iterator[Requirement]:
    """The requirements of the project, or of an extra and those that it takes in."""
    project = PROJECT["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.name == "lora2":
            for other in requirement.extras:
                yield from required(other)
        else:
            yield requirement


def lower_bounds() -> dict[str, Version]:
    """The lowest declared version of each package that the unit tier is run with."""
    bounds: dict[str, Version] = {}
    for requirement in (*required(None), *required("test")):
        (lowest,) = (each for each in requirement.specifier if each.operator == ">=")
        name, version = canonicalize_name(requirement.name), Version(lowest.version)
        assert bounds.setdefault(name, version) == version, f"two bounds of {name}"
    return bounds


def pinned(file: str) -> dict[str, Version]:
    """The versions of a constraints file."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_every_lower_bound_is_the_version_that_is_tested():
    found = pinned("constraints-lowest.txt")
    assert lower_bounds() == {name: found.get(name) for name in lower_bounds()}


@pytest.mark.parametrize("extra", PROJECT["project"]["optional-dependencies"])
def test_an_extra_has_the_bounds_of_all_others(extra):
    bounds = lower_bounds()
    for requirement in required(extra):
        name = canonicalize_name(requirement.name)
        if name in bounds:
            assert Version(str(requirement.specifier).removeprefix(">=")) == bounds[name]


def test_the_pinned_environment_is_within_the_bounds():
    pins = pinned("constraints.txt")
    assert [name for name, lowest in lower_bounds().items() if pins[name] < lowest] == []


# The version whose options were read: a later one may drop some, and earlier ones lack some.
@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="lacks some")
def test_every_option_that_is_left_out_is_one_of_transformers():
    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert TRAINING_LEFT_OUT - known == set()


def test_an_option_that_a_version_lacks_is_left_out_without_a_word():
    @dataclasses.dataclass
    class Older:
        learning_rate: float = 1e-3
        do_train: bool = False

    options = derived("Options", Older, TRAINING_LEFT_OUT, "Options.")
    assert [field.name for field in dataclasses.fields(options)] == ["learning_rate"]


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_relative_links_lead_to_files(path):
    targets = _LINK.findall(path.read_text(encoding="utf-8"))
    relative = [each.partition("#")[0] for each in targets if "://" not in each]
    assert [each for each in relative if each and not (path.parent / each).exists()] == []


def test_the_page_of_a_package_index_has_no_relative_link():
    (hook,) = PROJECT["tool"]["hatch"]["metadata"]["hooks"].values()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert all(target.startswith("https://") for target in _LINK.findall(text))
    assert "https://arxiv.org/abs/2408.06854" in text
    assert "docs/how-to/serve.md" in text
