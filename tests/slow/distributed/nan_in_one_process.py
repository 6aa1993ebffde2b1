"""`lora2` in processes of which one alone computes a loss that is infinite."""

import os
import sys
from typing import Any

import torch
from transformers import Trainer

from lora2_cli.main import main

_compute_loss = Trainer.compute_loss


def _compute_loss_of_the_last(self: Trainer, *arguments: Any, **named: Any) -> Any:
    loss = _compute_loss(self, *arguments, **named)
    is_last = os.environ["RANK"] == "1" and self.state.global_step == 2
    # The gradients stay finite.
    return loss + torch.inf if is_last and self.model.training else loss


Trainer.compute_loss = _compute_loss_of_the_last  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
