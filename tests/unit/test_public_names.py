"""What `import lora2` gives is in the reference."""

from pathlib import Path

import pytest

import lora2

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", [name for name in lora2.__all__ if name != "__version__"])
def test_each_public_name_is_in_the_reference(name: str) -> None:
    assert hasattr(lora2, name)
    assert any(f"::: lora2.{name}\n" in f"{page.read_text()}\n" for page in REFERENCE.glob("*.md"))
