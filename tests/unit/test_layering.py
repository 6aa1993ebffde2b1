"""The arrow of imports goes one way: mathematics ← layers ← model ← trainer ← command line."""

import ast
from pathlib import Path

import pytest

import lora2

PACKAGE = Path(lora2.__file__).parent
# From the bottom up; a module may import from its own level and those below it.
LEVELS = (
    (
        "checked_files",
        "errors",
        "extras",
        "field_types",
        "files",
        "half_precision",
        "heap",
        "mathematics",
        "registration",
        "target_config",
        "targets",
        "trainer_logs",
        "trainer_optimizer",
        "unknown_fields",
    ),
    ("config", "initialization"),
    ("layers", "bottleneck"),
    ("tuner", "placement"),
    ("sora",),
    (
        "budget",
        "loading",
        "penalty",
        "sensitivities",
        "saving",
        "numerics",
        "shared_budget",
        "allocator",
    ),
    ("combination", "conversion", "model_card", "preparation", "trl_adapters", "model_loss"),
    ("training_hook", "model"),
    ("trainer", "export"),
    ("importing",),
    ("data",),
    ("training",),
    ("reports", "benchmarks"),
    ("experiments",),
    ("commands",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_parts(path: Path) -> set[str]:
    """First part below the package of everything a file imports from it at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            base = node.module
            names |= {f"{base}.{alias.name}" if base == "lora2" else base for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("lora2.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_its_level_or_below(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    known = imported_parts(path) & LEVEL_OF.keys()
    above = {name for name in known if LEVEL_OF[name] > LEVEL_OF[own]}
    assert not above


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "mathematics").glob("*.py")), ids=lambda p: p.name
)
def test_mathematics_imports_itself_torch_its_triton_and_the_standard_library_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    others = {module for module in modules if not module.startswith("lora2.mathematics.")}
    packages = {module.split(".")[0] for module in others}
    assert packages <= {"torch", "triton", "typing", "collections", "math"}


def test_the_core_needs_no_extra():
    """data, training, reports and commands are the extras' side; nothing below needs them."""
    core = [
        path
        for path in FILES
        if LEVEL_OF[path.relative_to(PACKAGE).parts[0].removesuffix(".py")] < LEVEL_OF["data"]
    ]
    assert core
    for path in core:
        assert not imported_parts(path) & {"data", "training", "reports", "commands"}
