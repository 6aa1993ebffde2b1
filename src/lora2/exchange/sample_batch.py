"""Inputs that a transformers model computes with, made from its configuration.

What an export checks itself with where there are no data: the model's forward names what it takes,
and its configuration the sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]

_ROWS, _LENGTH, _CHOICES = 2, 12, 2
# Pixels of models that read images of any size; samples of half a second of sound at 16 kHz.
_IMAGE_SIZE, _SAMPLES, _FRAMES = 64, 8000, 64
# The names of the width of a frame of sound in configurations.
_FRAME_WIDTHS = ("feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins")
_PARTS = ("vision_config", "audio_config", "encoder")


def sample_batches(model: nn.Module) -> Iterator[Inputs]:
    """Yield inputs for a model of transformers, those first that reach most of it.

    Random tokens (an end token in each row, no padding), pixels or sounds. Not all of them suit:
    configurations do not say everything, so the caller tries.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    taken = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)
    reads_text = "input_ids" in taken
    # A decoder's classifier finds the end of a row by its padding, and takes one row without.
    pads = field(config.get_text_config(), "pad_token_id") is not None
    rows = _ROWS if pads or not reads_text else 1
    texts = list(_texts(type(model).__name__, config, taken, rows, generator)) if reads_text else []
    others = [*_images(config, taken, rows, generator), *_sounds(config, taken, rows, generator)]
    decoder = {} if reads_text else _decoder(config, taken, rows, generator)
    yield from (text | other for text in texts for other in others)
    yield from texts
    yield from (other | decoder for other in others)
    yield from _dummy_inputs(model)


def field(config: Any, *names: str) -> Any:
    """Return the first of these fields that a configuration has and that is not None.

    transformers' configurations raise an AttributeError for what they do not have.
    """
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None


def _texts(
    kind: str, config: Any, taken: Any, rows: int, generator: torch.Generator
) -> Iterator[Inputs]:
    tokens = _tokens(config, rows, generator)
    inputs = {"input_ids": tokens}
    if "attention_mask" in taken:
        inputs["attention_mask"] = torch.ones_like(tokens)
    if "decoder_input_ids" in taken:
        inputs["decoder_input_ids"] = tokens
    if "global_attention_mask" in taken:
        # Otherwise Longformer looks for its own separators.
        inputs["global_attention_mask"] = torch.zeros_like(tokens)
    choices = {name: tensor.unsqueeze(1).repeat(1, _CHOICES, 1) for name, tensor in inputs.items()}
    yield from (choices, inputs) if kind.endswith("MultipleChoice") else (inputs, choices)


def _tokens(config: Any, rows: int, generator: torch.Generator) -> Tensor:
    """Random ordinary tokens [rows, length], the end token once in each row, the last."""
    text = config.get_text_config()
    # An encoder and a decoder of their own have a configuration each.
    vocabulary = field(text, "vocab_size") or field(field(config, "encoder"), "vocab_size") or 100
    longest = field(text, "max_position_embeddings", "n_positions")
    # XLNet has -1, which is no limit.
    length = min(_LENGTH, longest) if longest is not None and longest > 0 else _LENGTH
    special = _special_tokens(config) | _special_tokens(text)
    ordinary = torch.tensor([token for token in range(vocabulary) if token not in special] or [0])
    places = torch.randint(len(ordinary), (rows, length), generator=generator)
    tokens = ordinary[places]
    end = field(text, "eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if isinstance(end, int) and 0 <= end < vocabulary:
        tokens[:, -1] = end
    return tokens


def _special_tokens(config: Any) -> set[int | None]:
    """All tokens that a configuration gives a meaning: padding, ends, places of images."""
    values = (
        value
        for name, value in config.to_dict().items()
        if name.endswith(("token_id", "token_index"))
    )
    return {each for value in values for each in (value if isinstance(value, list) else [value])}


def _decoder(config: Any, taken: Any, rows: int, generator: torch.Generator) -> Inputs:
    """What a decoder reads that writes texts for images or sounds."""
    if "decoder_input_ids" not in taken:
        return {}
    return {"decoder_input_ids": _tokens(config, rows, generator)}


def _images(config: Any, taken: Any, rows: int, generator: torch.Generator) -> Iterator[Inputs]:
    if "pixel_values" not in taken:
        return
    for part in _parts(config):
        size = field(part, "image_size", "input_size") or _IMAGE_SIZE
        height, width = size if isinstance(size, list | tuple) else (size, size)
        image = (field(part, "num_channels", "in_channels") or 3, height, width)
        frames = field(part, "num_frames")
        shape = (rows, *image) if frames is None else (rows, frames, *image)
        yield {"pixel_values": torch.randn(shape, generator=generator)}


def _sounds(config: Any, taken: Any, rows: int, generator: torch.Generator) -> Iterator[Inputs]:
    for part in _parts(config):
        widths = [width for name in _FRAME_WIDTHS if (width := field(part, name)) is not None]
        places = field(part, "max_source_positions")
        length = field(part, "max_length") or _FRAMES
        shapes: dict[str, list[tuple[int, ...]]] = {
            # Whisper reads spectra of one length, twice that of its places.
            "input_features": [(width, 2 * places) for width in widths if places]
            + [(length, width) for width in widths],
            "input_values": [*((length, width) for width in widths), (_SAMPLES,)],
        }
        for name, candidates in shapes.items():
            if name in taken:
                for shape in candidates:
                    yield {name: torch.randn((rows, *shape), generator=generator)}


def _parts(config: Any) -> list[Any]:
    """Return the configurations of the parts that read no text, the whole one last."""
    return [part for name in _PARTS if (part := field(config, name)) is not None] + [config]


def _dummy_inputs(model: Any) -> Iterator[Inputs]:
    """Yield what transformers itself traces the model with, if it has something."""
    try:
        yield {
            name: value for name, value in model.dummy_inputs.items() if isinstance(value, Tensor)
        }
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        return
