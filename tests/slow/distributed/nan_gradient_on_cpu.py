"""`lora2` under DeepSpeed on a CPU, where one process has a NaN gradient of a finite loss."""

import os
import sys
from typing import Any

import deepspeed_on_cpu  # noqa: F401
import torch
from transformers import Trainer

from lora2_cli.main import main

_compute_loss = Trainer.compute_loss


def _compute_loss_without_gradient(self: Trainer, *arguments: Any, **named: Any) -> Any:
    loss = _compute_loss(self, *arguments, **named)
    if os.environ["RANK"] == "1" and self.state.global_step == 2 and self.model.training:
        loss = loss * 1.0
        loss.register_hook(lambda gradient: gradient * torch.nan)
    return loss


Trainer.compute_loss = _compute_loss_without_gradient  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
