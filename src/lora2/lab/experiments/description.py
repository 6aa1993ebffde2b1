"""What is run, as data: two descriptions that say the same have the same identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_DIGITS = 12


@dataclass(frozen=True)
class RunDescription:
    """One training run.

    Attributes:
        model: as `lora2 train --model` takes it.
        task: name of the task.
        method: name of the method in the registry.
        options: all other options of `lora2 train` that decide what is computed, by name. Where
            the data lie, or how many threads compute, is not among them.
        seed: the seed of training.
        cuts: sizes to which the finished adapter is cut and scored again, in parameters of a LoRA.
    """

    model: str
    task: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    cuts: tuple[int, ...] = ()

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that no other description has; the order of options is none."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

    @property
    def name(self) -> str:
        """A name for files, for people to find: task, method, seed and the identity."""
        return f"{self.task}-{self.method}-s{self.seed}-{self.identity}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        content: dict[str, Any] = {
            "model": self.model,
            "task": self.task,
            "method": self.method,
            "options": {name: _plain(value) for name, value in self.options.items()},
            "seed": self.seed,
        }
        # A run without cuts keeps the identity that it had before there were any.
        return content | ({"cuts": list(self.cuts)} if self.cuts else {})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunDescription:
        """Return the description that `to_dict` gave."""
        return cls(**{**content, "cuts": tuple(content.get("cuts", ()))})

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunDescription) and other.identity == self.identity


def _plain(value: Any) -> Any:
    # 8 and 8.0 are one number and must not be two identities.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
