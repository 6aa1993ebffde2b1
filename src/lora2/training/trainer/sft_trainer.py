"""The trainer of all runs that learn texts: TRL's, with what adapters add to the loss.

TRL is an extra: import this module only after `require("trl", ...)`.
"""

from __future__ import annotations

from trl import SFTTrainer

from lora2.training.trainer.run_trainer import RunBase
from lora2.training.trainer.trl_penalty import WithPenalty


class RunSftTrainer(WithPenalty, RunBase, SFTTrainer):
    """TRL's SFTTrainer for LoRA² and all other methods."""
