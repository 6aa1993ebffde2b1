"""The trainer's arguments that `lora2 train` makes of its options."""

from pathlib import Path

from transformers import TrainingArguments

from lora2.training.arguments import RunSettings
from lora2.training.run_folder import RunFolder
from lora2.training.trainer_arguments import optimizer_steps, training_arguments


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
