"""The trainer's arguments that `lora2 train` makes of its options."""

import copy
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model
from transformers import TrainingArguments

from lora2 import Lora2Config
from lora2.errors import UserError
from lora2.training.checks.sharding import check_may_shard
from lora2.training.methods.registry import METHODS
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.options.arguments import RunSettings
from lora2.training.trainer.argument_checks import check_sharding
from lora2.training.trainer.trainer_arguments import optimizer_steps, training_arguments
from unit.tiny_transformers import tiny_llama


class _OnTwoGpus(TrainingArguments):
    """As transformers makes them of what it finds on such a machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._n_gpu = 2


def test_the_batch_of_one_process_is_that_of_one_gpu_however_many_there_are(tmp_path: Path) -> None:
    settings = RunSettings.from_options({"per_device_train_batch_size": 8, "num_train_epochs": 3})
    arguments = training_arguments(settings, RunFolder(tmp_path), _OnTwoGpus)
    assert arguments.train_batch_size == 8
    assert optimizer_steps(arguments, rows=80) == 30


@pytest.mark.parametrize("names", [None, ["no"], ["tensorboard", "x"]], ids=str)
def test_a_reporter_that_is_none_is_refused_by_naming_none(names: Any, tmp_path: Path) -> None:
    settings = RunSettings.from_options({"report_to": names})
    with pytest.raises(UserError, match=r"^report_to=.*; write none to report"):
        training_arguments(settings, RunFolder(tmp_path))


@pytest.mark.parametrize("option", ["fsdp=full_shard", "ddp_backend=nccl"])
def test_what_is_for_several_processes_is_refused_in_one(option: str, tmp_path: Path) -> None:
    settings = RunSettings.from_options(dict([option.split("=")]))
    with pytest.raises(UserError, match=f"^{option} .* start it with torchrun .* or leave"):
        training_arguments(settings, RunFolder(tmp_path))


@pytest.mark.parametrize("name", ["activation_checkpointing", "fsdp_activation_checkpointing"])
def test_blocks_that_fsdp_wraps_are_refused_where_nothing_would_be_saved(name: str) -> None:
    settings = RunSettings.from_options({"fsdp": True, "fsdp_config": {name: True}})
    check_may_shard(settings, METHODS["lora2"])
    with pytest.raises(UserError, match=f"^fsdp_config: {name}=True: .* write --activation_check"):
        check_may_shard(settings, METHODS["lora"])


def test_a_training_without_a_whole_batch_is_refused(tmp_path: Path) -> None:
    settings = RunSettings.from_options(
        {"per_device_train_batch_size": 8, "dataloader_drop_last": True}
    )
    arguments = training_arguments(settings, RunFolder(tmp_path))
    assert optimizer_steps(arguments, rows=8)
    with pytest.raises(UserError, match="dataloader_drop_last=True drops all 7 training rows"):
        optimizer_steps(arguments, rows=7)


def test_rows_of_tokens_are_sharded_where_the_head_has_its_own_weight(tmp_path: Path) -> None:
    arguments = copy.copy(training_arguments(RunSettings.from_options({}), RunFolder(tmp_path)))
    rows = Lora2Config(task_type="CAUSAL_LM", trainable_token_indices=[3])
    tied, untied = (
        get_peft_model(tiny_llama(tie_word_embeddings=is_tied), rows) for is_tied in (True, False)
    )
    check_sharding(arguments, tied)
    # Set here, since transformers makes a plugin of it where several processes are.
    arguments.fsdp = True
    check_sharding(arguments, untied)
    with pytest.raises(UserError, match="fsdp=True: rows of tokens are trained"):
        check_sharding(arguments, tied)
