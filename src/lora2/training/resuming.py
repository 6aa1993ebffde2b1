"""Whether a run can resume, and from which checkpoint: the newest complete one of its adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict

from lora2.training.methods.registry import method_of
from lora2.training.on_disk.checkpoints import ends_an_epoch, newest_complete
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.prepare import PreparedRun
from lora2.tuners.base.distributed.zero import is_partitioned

_SAMPLING = "train_sampling_strategy"
# Their order is drawn from the generator of the whole training at the start of each epoch.
_DRAWN_AGAIN = ("group_by_length",)


def why_not_resumed(settings: RunSettings) -> str | None:
    """Return why a run that was cut short cannot go on from a checkpoint; None where it can."""
    checkpoint, _ = newest_complete(RunFolder(settings.folder).checkpoints)
    if checkpoint is None:
        # It then begins again by itself.
        return None
    option = _losing_order(settings.training, ends_an_epoch(checkpoint))
    if option is not None:
        return f"{option}: the order of its rows cannot be drawn again, so the run cannot go on"
    method = method_of(settings)
    if not method.resumes(settings.adapter):
        return f"resume: the checkpoints of {method.label} lack what it needs to go on"
    return None


def _losing_order(training: Mapping[str, Any], between_epochs: bool) -> str | None:
    """Return the option by which the order of rows is not known from the seed and the epoch.

    between_epochs: whether the checkpoint has the state from which the next order is drawn.
    """
    strategy = training.get(_SAMPLING)
    if strategy in _DRAWN_AGAIN and not between_epochs:
        return f"{_SAMPLING}={strategy}"
    of_accelerate = training.get("accelerator_config") or {}
    if strategy != "sequential" and not of_accelerate.get("use_seedable_sampler", True):
        # Checkpoints do not hold the generator that draws this order.
        return "accelerator_config: use_seedable_sampler=false"
    return None


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
