"""What can happen to a file of a run, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

_CONTENTS = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "nan": b"NaN",
    "binary": bytes(range(256)),
}
_Tensors = dict[str, torch.Tensor]


def damage(path: Path, how: str) -> None:
    """Damage a file: one of the contents above, or as the functions below say."""
    if how in _CONTENTS:
        path.write_bytes(_CONTENTS[how])
    elif how == "missing":
        path.unlink()
    elif how == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how in _TENSORS:
        _change_tensors(path, _TENSORS[how])
    else:
        _change_key(path, how)


def _change_key(path: Path, how: str) -> None:
    """Remove a key, of "without KEY", or set it, of "KEY=JSON"."""
    content = _read(path)
    name, is_set, value = how.partition("=")
    if is_set:
        content[name] = json.loads(value)
    else:
        # Runs of other methods and of texts have not all of the keys.
        content.pop(how.removeprefix("without "), None)
    write = yaml.safe_dump if path.suffix == ".yaml" else json.dumps
    path.write_text(write(content), encoding="utf-8")


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)


def _change_tensors(path: Path, change: Callable[[_Tensors], _Tensors]) -> None:
    save_file(change(load_file(path)), path)


def _fill(value: float) -> Callable[[_Tensors], _Tensors]:
    """Fill the first tensor of the adapter's layers."""

    def fill(tensors: _Tensors) -> _Tensors:
        name = min(name for name in tensors if "classifier" not in name)
        return tensors | {name: torch.full_like(tensors[name], value)}

    return fill


def _without_first(tensors: _Tensors) -> _Tensors:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def _renamed(tensors: _Tensors) -> _Tensors:
    return {f"{name}_old": tensor for name, tensor in tensors.items()}


def _one_more(tensors: _Tensors) -> _Tensors:
    return {**tensors, "base_model.model.more": torch.zeros(1)}


def _longer(tensors: _Tensors) -> _Tensors:
    return {
        name: torch.cat([tensor, tensor]) if tensor.ndim else tensor
        for name, tensor in tensors.items()
    }


_TENSORS = {
    "tensors nan": _fill(torch.nan),
    "tensors infinite": _fill(torch.inf),
    "tensors missing": _without_first,
    "tensors none": lambda tensors: {},
    "tensors renamed": _renamed,
    "tensors one more": _one_more,
    "tensors of another shape": _longer,
}
