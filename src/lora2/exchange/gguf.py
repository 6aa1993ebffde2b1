"""Exports an adapter as a LoRA in GGUF, which llama.cpp puts on a GGUF of the base model."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor

from lora2.errors import UserError
from lora2.exchange.export_arguments import check_batch, check_is_in_memory
from lora2.exchange.lora_form import lora_form
from lora2.exchange.verification import (
    Batch,
    adapter_logits,
    check_changes,
    checked_difference,
    logits,
    tolerance_of,
)
from lora2.support.extras import require
from lora2.support.files import as_path, check_is_new, replacing
from lora2.tuners.base.names.peft_names import PREFIX, ROWS


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp stores a model.

    Attributes:
        name: of the architecture in GGUF.
        interleaved: modules whose output rows it reorders, by the configuration's name for their
            number of heads: rotary embeddings take pairs of neighbours there, halves of a head in
            transformers.
    """

    name: str
    interleaved: Mapping[str, str]


_LLAMA = Architecture("llama", {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"})
GGUF_ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", {}),
    "qwen3": Architecture("qwen3", {}),
    "gemma": Architecture("gemma", {}),
    "gemma2": Architecture("gemma2", {}),
}
"""Architectures of GGUF by transformers' model_type."""

# llama.cpp's name of the last layer's weight.
_OUTPUT = "output.weight"
_PARTS = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}


@dataclass(frozen=True)
class GgufExport:
    """What was written.

    Attributes:
        path: the file.
        rank: of all modules.
        difference: largest difference of the logits, as a share of the largest logit.
    """

    path: Path
    rank: int
    difference: float


def export_gguf(
    model: PeftModel,
    path: Path | str,
    *,
    adapter_name: str = "default",
    batch: Batch | None = None,
) -> GgufExport:
    """Write an adapter of LoRA² or SoRA as a GGUF file, float32, for `llama-cli --lora` and others.

    The file appears only when the LoRA, read back from it, has been found to compute the same.

    Raises:
        UserError: the file exists, the package gguf is missing, or llama.cpp has no place for a
            part of the adapter.
        NumericalError: NaN or infinity in the adapter or in what the model computes.
    """
    path = as_path(path)
    check_is_new(path, "file", name="path")
    check_batch(batch)
    path = path.resolve()
    form = lora_form(model, adapter_name)
    check_is_in_memory(model)
    if form.config.trainable_token_indices:
        raise UserError(
            f"to: the adapter trains rows of tokens ({ROWS}), which llama.cpp has no place for in "
            "a LoRA; export to merged, and convert that to GGUF."
        )
    places = _places(model.get_base_model(), form.tensors)
    expected, batch, base = adapter_logits(model, adapter_name, batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _write(temporary, places, form.tensors, form.config.r, str(form.config.task_type))
        reloaded = get_peft_model(base, form.config)
        set_peft_model_state_dict(reloaded, _read(temporary, places))
        check_changes(model, adapter_name, reloaded, torch.float32)
        difference = checked_difference(
            expected, logits(reloaded.eval(), batch), tolerance_of(model)
        )
    return GgufExport(path, form.config.r, difference)


@dataclass(frozen=True)
class _Place:
    """The name of a tensor of the LoRA in the file; heads: of those whose rows are reordered."""

    architecture: str
    name: str
    heads: int | None


def _places(base: Any, tensors: Mapping[str, Tensor]) -> dict[str, _Place]:
    gguf = require("gguf", extra="gguf")
    config: Any = getattr(base, "config", None)
    model_type: str = getattr(config, "model_type", type(base).__name__)
    architecture = GGUF_ARCHITECTURES.get(model_type)
    if architecture is None:
        raise UserError(
            f"to: gguf is known for {', '.join(GGUF_ARCHITECTURES)}, not for {model_type}; export "
            "to lora or merged."
        )
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    places = {}
    for key in tensors:
        module, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        stored_part = _PARTS.get("lora_" + part)
        if name == _OUTPUT and _is_tied(base):
            raise UserError(
                f"to: the adapter changes {module}, whose weight is that of the input embedding, "
                "and a GGUF of such a model has no output weight; export to merged, and convert "
                "that to GGUF."
            )
        if name is None or stored_part is None:
            raise UserError(
                f"llama.cpp has no place for {key.removeprefix(PREFIX)}; adapt linear layers of "
                "the blocks only, or export to merged."
            )
        field = architecture.interleaved.get(module.rpartition(".")[2])
        heads = getattr(config, field) if field and stored_part == "lora_b" else None
        places[key] = _Place(architecture.name, f"{name}.{stored_part}", heads)
    return places


def _is_tied(base: Any) -> bool:
    output, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    weights = [getattr(each, "base_layer", each).weight for each in (output, embedding)]
    return weights[0] is weights[1]


def _write(
    path: Path, places: Mapping[str, _Place], tensors: Mapping[str, Tensor], rank: int, task: str
) -> None:
    gguf = require("gguf", extra="gguf")
    writer = gguf.GGUFWriter(path, next(iter(places.values())).architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        # llama.cpp multiplies by alpha / rank.
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        writer.add_string(gguf.Keys.Adapter.LORA_TASK_NAME, task)
        for key, place in places.items():
            tensor = tensors[key] if place.heads is None else interleave(tensors[key], place.heads)
            writer.add_tensor(place.name, tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    # numpy does not say that a disk is full.
    if path.stat().st_size < sum(tensors[key].nbytes for key in places):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _read(path: Path, places: Mapping[str, _Place]) -> dict[str, Tensor]:
    gguf = require("gguf", extra="gguf")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    found = {}
    for key, place in places.items():
        tensor = torch.from_numpy(np.array(stored[place.name]))
        found[key] = tensor if place.heads is None else separate(tensor, place.heads)
    return found


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows [heads · 2 · n, ...] from halves of a head to pairs of neighbours."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def separate(rows: Tensor, heads: int) -> Tensor:
    """Undo `interleave`."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
