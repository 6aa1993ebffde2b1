"""Options that need a task or data, where the user has named neither."""

from __future__ import annotations

from lora2.data.named_tasks import IN_FILES
from lora2.errors import UserError
from lora2.training.objectives.registry import objective_of
from lora2.training.options.arguments import RunSettings
from lora2.training.options.named_tasks import TASKS

_OF_TEXTS = ("validation_file", "dataset_config", "text_columns")
# Other checks say of some objectives that they have no labels.
_OF_LABELS = ("label_column", "kind")


def check_default_task(settings: RunSettings) -> None:
    """Check that nothing was given that is not for the default task, which nobody named.

    Raises:
        UserError: an option of the user's own data or of GLUE, or an objective without a default
            task; the sentence names what is missing.
    """
    data = settings.data
    if data.task or data.train_file or data.dataset:
        return
    read = objective_of(settings).options
    for name in (*_OF_TEXTS, *(name for name in _OF_LABELS if name in read)):
        value = getattr(data, name)
        if value is not None:
            shown = " ".join(value) if isinstance(value, list) else value
            raise UserError(
                f"{name}: {shown} is for data of your own, and none is named; add --train_file or "
                f"--dataset, or leave --{name} out."
            )
    if data.data_dir is not None and "data_dir" in read:
        # The last named task of GLUE has the fewest rows.
        example = [name for name in TASKS[settings.objective].names if name in IN_FILES][-1]
        raise UserError(
            f"data_dir: {data.data_dir} is the folder of a task's files, and no task is named; add "
            f"--task with the task to read from it, such as {example}."
        )
    if TASKS[settings.objective].default is None:
        raise UserError(
            f"objective: {settings.objective} has no task that is taken where none is named; add "
            "--train_file or --dataset."
        )
