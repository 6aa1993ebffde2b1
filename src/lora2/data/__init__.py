"""Tasks to train on: generated ones, the GLUE tasks, the user's own data."""

from lora2.data.glue import GLUE_TASKS
from lora2.data.image_loading import IMAGE_TASK_NAMES
from lora2.data.load import TASK_NAMES, load_task
from lora2.data.own_data import load_labelled, texts_of
from lora2.data.preferences import PREFERENCE_TASK_NAMES, load_preference_task
from lora2.data.table_files import read_table
from lora2.data.table_writing import as_table_file, check_ending
from lora2.data.tagged_loading import TAGGED_TASK_NAMES
from lora2.data.task import Kind, Task, TaskData
from lora2.data.text_loading import TEXT_TASK_NAMES, load_text_rows, load_text_task
from lora2.data.text_task import TextTask
from lora2.data.tokenization import tokenize, tokenize_dataset

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
