"""What makes inputs of rows: a tokenizer of texts, an image processor of images."""

from __future__ import annotations

from typing import Any, Protocol


class Preprocessor(Protocol):
    """What all of them can do; an objective knows which one its rows need."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write it into a folder, next to a model."""
