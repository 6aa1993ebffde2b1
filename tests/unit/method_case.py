"""A method of `lora2 train` on a tiny classifier: trained for a few steps as a run does, saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lora2.training.methods.method import Method
from lora2.training.trainer.run_trainer import RunTrainer
from unit.tiny_transformers import Examples
from unit.training_case import arguments


@dataclass(frozen=True)
class Trained:
    """A model after some steps, its trained tensors before them, and where it was saved."""

    before: dict[str, Tensor]
    model: Any
    folder: Path


def trainer_of(
    method: Method,
    model: nn.Module,
    folder: Path,
    rows: dict[str, Tensor],
    kind: type[RunTrainer] = RunTrainer,
    **training: Any,
) -> RunTrainer:
    """The trainer of a run, with the method's own callbacks."""
    return kind(
        model=model,
        args=arguments(folder / "checkpoints", **{"logging_strategy": "no"} | training),
        train_dataset=Examples(rows),
        callbacks=method.callbacks(),
    )


def train(
    method: Method, model: Any, folder: Path, rows: dict[str, Tensor], **training: Any
) -> Trained:
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    trainer_of(method, model, folder, rows, **training).train()
    options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    model.save_pretrained(str(folder / "adapter"), **options)
    return Trained(before, model, folder / "adapter")


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """In evaluation mode. AdaLoRA's penalty prevents labels once it is loaded."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    output: Tensor = model.eval()(**inputs).logits
    return output
