"""The modules that a method of PEFT trains whole: which they are, and their dtype.

Where an adapter is put on a model, to be trained or once it is loaded, `keep_precise` comes first:
PEFT copies these modules with their hooks, and would load their weights in half precision.
"""

from __future__ import annotations

from typing import Any

from peft import TaskType
from peft.config import PeftConfig
from peft.utils.constants import SEQ_CLS_HEAD_NAMES

from lora2.training.base_models.precise_modules import put_in_float32

HEADS = tuple(SEQ_CLS_HEAD_NAMES)
"""What PEFT always trains in addition to the adapter for classification of texts and of words."""

_WITH_HEADS = (TaskType.SEQ_CLS, TaskType.TOKEN_CLS)


def heads_of_task(task_type: Any) -> tuple[str, ...]:
    """Return ends of the names of modules that PEFT trains whole unasked, by the kind of task."""
    return HEADS if task_type in _WITH_HEADS else ()


def is_trained_whole(name: str, config: PeftConfig) -> bool:
    """Whether PEFT trains a copy of the module of this name, by the config of an adapter."""
    # PEFT finds them by the ends of names: DistilBERT's pre_classifier is one.
    ends = (*(getattr(config, "modules_to_save", None) or ()), *heads_of_task(config.task_type))
    return bool(ends) and name.endswith(ends)


def keep_precise(model: Any, config: PeftConfig) -> None:
    """Let what is trained whole have float32, before the adapter of this config is put on a model.

    What a head returns stays in float32, in which the loss is computed.
    """
    inside = f"{model.base_model_prefix}."
    for name, module in model.named_modules():
        if is_trained_whole(name, config):
            put_in_float32(module, returns_float32=not name.startswith(inside))
