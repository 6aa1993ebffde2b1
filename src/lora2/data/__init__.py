"""Tasks to train on: generated ones, the GLUE tasks, the user's own data."""

from lora2.data.loading.classification import TASK_NAMES, load_task
from lora2.data.loading.images import IMAGE_TASK_NAMES
from lora2.data.loading.preferences import PREFERENCE_TASK_NAMES, load_preference_task
from lora2.data.loading.tags import TAGGED_TASK_NAMES
from lora2.data.loading.texts import TEXT_TASK_NAMES, load_text_rows, load_text_task
from lora2.data.own.labelled import load_labelled, texts_of
from lora2.data.public.glue import GLUE_TASKS
from lora2.data.tables.files import read_table
from lora2.data.tables.writing import as_table_file, check_ending
from lora2.data.tasks.task import Kind, Task, TaskData
from lora2.data.tasks.text_task import TextTask
from lora2.data.tokenization.texts import tokenize, tokenize_dataset

__all__ = [
    "GLUE_TASKS",
    "IMAGE_TASK_NAMES",
    "PREFERENCE_TASK_NAMES",
    "TAGGED_TASK_NAMES",
    "TASK_NAMES",
    "TEXT_TASK_NAMES",
    "Kind",
    "Task",
    "TaskData",
    "TextTask",
    "as_table_file",
    "check_ending",
    "load_labelled",
    "load_preference_task",
    "load_task",
    "load_text_rows",
    "load_text_task",
    "read_table",
    "texts_of",
    "tokenize",
    "tokenize_dataset",
]
