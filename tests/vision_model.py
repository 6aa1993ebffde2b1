"""A tiny vision transformer in a folder, and images of two colours."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageColor
from transformers import ViTConfig, ViTModel

from lora2.training.base_models.digits_model import digits_processor


def save_vision_model(folder: Path) -> Path:
    """Save a random vision transformer without a head, as pretrained ones come."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    ViTModel(config).save_pretrained(folder)
    digits_processor().save_pretrained(folder)
    return folder


def save_images(folder: Path, classes: Sequence[str] = ("blue", "red"), each: int = 10) -> Path:
    """Save a folder of images for each class; one that names a colour has images of it."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            colour = name if name in ImageColor.colormap else "white"
            image = Image.new("RGB", (8 + number, 8), colour)
            image.putpixel((0, 0), (number, number, number))
            image.save(folder / name / f"{number}.png")
    return folder
