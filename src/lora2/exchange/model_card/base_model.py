"""What a model card calls the base model: its name on the hub, never a path of one machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import nn
from transformers import PreTrainedModel

# NAME or OWNER/NAME, as the hub allows them.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# The folder of a model in the hub's cache, which has the owner and the name in its own.
_CACHED = re.compile(r"models--(.+?)--(.+)")
_PACKAGES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class BaseModelName:
    """How a card names a base model.

    Attributes:
        shown: what a reader knows it by.
        hub_id: its name on the hub; None where it is not known to be there.
        place: where it was, if that is not the hub.
    """

    shown: str
    hub_id: str | None = None
    place: str = ""

    @property
    def in_words(self) -> str:
        """The name with its place, in Markdown."""
        if self.hub_id is not None:
            return f"[`{self.hub_id}`](https://huggingface.co/{self.hub_id})"
        return f"`{self.shown}`, {self.place}"

    @property
    def title(self) -> str:
        """The name without the owner on the hub."""
        return self.shown if self.hub_id is None else self.hub_id.rpartition("/")[2]

    @property
    def to_load(self) -> str:
        """What `from_pretrained` is given in an example."""
        return self.hub_id or f"path/to/{self.shown}"


def base_model_name(model: nn.Module) -> BaseModelName:
    """Return the name of a base model as a card may show it."""
    name = model.name_or_path if isinstance(model, PreTrainedModel) else ""
    if not name:
        return BaseModelName(type(model).__name__, place="a model without a name on the hub")
    return name_of_location(name)


def name_of_location(location: str) -> BaseModelName:
    """Return the name of what `from_pretrained` was given: a hub name or a path."""
    parts = _parts_of(location)
    for part in parts:
        cached = _CACHED.fullmatch(part)
        if cached is not None:
            return _on_hub(f"{cached[1]}/{cached[2]}")
    if not _is_path(location):
        return _on_hub(location)
    for index, part in enumerate(parts[:-1]):
        if part in _PACKAGES:
            name = "/".join(parts[index + 1 :])
            return BaseModelName(name, place="in a Python package")
    shown = parts[-1] if parts else "model"
    return BaseModelName(shown, place="a local folder on the machine that saved this adapter")


def _on_hub(name: str) -> BaseModelName:
    return BaseModelName(name, hub_id=name)


def _parts_of(location: str) -> tuple[str, ...]:
    kind: Any = PureWindowsPath if "\\" in location else PurePosixPath
    path = kind(location)
    return tuple(part for part in path.parts if part not in (path.anchor, ".", "..", "~"))


def _is_path(location: str) -> bool:
    return Path(location).is_dir() or _HUB_ID.fullmatch(location) is None
