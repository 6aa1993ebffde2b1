"""The checkpoint that a run resumes from: the newest that is complete and of its adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict

from lora2.training.on_disk.checkpoints import newest_complete
from lora2.training.prepare import PreparedRun
from lora2.tuners.base.distributed.zero import is_partitioned


def newest_checkpoint(prepared: PreparedRun) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to resume from, and what is wrong with each newer one."""
    return newest_complete(prepared.folder.checkpoints, _shapes(prepared.trainer.model))


def _shapes(model: Any) -> Mapping[str, Sequence[int]] | None:
    """Return the shapes of the tensors in a checkpoint of a model that has not been trained yet.

    None where they are not known: of a model that is trained whole, tied weights are in the file
    under one of their names, and DeepSpeed has split the parameters by now.
    """
    if not isinstance(model, PeftModel) or any(is_partitioned(each) for each in model.parameters()):
        return None
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.shape for name, tensor in state.items()}
