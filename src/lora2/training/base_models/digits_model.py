"""A small vision transformer that is trained whole, here, on the digits 0 to 4.

No package carries pretrained weights of a model that reads images, so that the task `digits` makes
its own: with the same seed on one machine, always the same.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from lora2.data.builtin.digits import KNOWN, digits_of
from lora2.training.quiet import quiet_loading

EPOCHS = 60
_BATCH, _RATE, _SEED = 64, 1e-3, 0
_SIZE, _MIDDLE = 8, 0.5
_SIZES = {
    "image_size": _SIZE,
    "patch_size": 2,
    "num_channels": 3,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def digits_processor() -> Any:
    """Return the image processor of the model: grey values from −1 to 1."""
    with quiet_loading():
        # transformers says here, and not where it is called, that torchvision is not installed.
        from transformers import ViTImageProcessor

        return ViTImageProcessor(
            size={"height": _SIZE, "width": _SIZE},
            image_mean=[_MIDDLE] * 3,
            image_std=[_MIDDLE] * 3,
        )


def save_digits_model(folder: Path) -> None:
    """Save the model, which is trained first where this process has not done so yet."""
    with quiet_loading():
        pretrained_digits().save_pretrained(folder)


@functools.cache
def pretrained_digits() -> ViTModel:
    """Return the model, without its head, after training on the digits that the task lacks."""
    digits = digits_of(KNOWN)
    pixels = torch.tensor(digits.values, dtype=torch.float32)
    pixels = ((pixels - _MIDDLE) / _MIDDLE).unsqueeze(1).expand(-1, 3, -1, -1)
    labels = torch.tensor([KNOWN.index(name) for name in digits.names])
    # The run draws the same random numbers, whether or not this model is trained before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = ViTForImageClassification(ViTConfig(**_SIZES, num_labels=len(KNOWN)))
        _train(model, pixels, labels)
    encoder: ViTModel = model.vit
    return encoder.eval()


def _train(model: ViTForImageClassification, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Train all weights; the learning rate falls to zero."""
    steps = EPOCHS * -(-len(labels) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(_BATCH):
            loss = cross_entropy(model(pixel_values=_shifted(pixels[rows])).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _shifted(pixels: torch.Tensor) -> torch.Tensor:
    """Return a batch that is shifted by up to one pixel, so that fewer places are memorised."""
    down, right = (int(torch.randint(-1, 2, ())) for _ in range(2))
    return pixels.roll((down, right), (2, 3))
