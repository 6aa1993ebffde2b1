"""Tasks to train on: agreement (generated), the GLUE tasks, and the user's own data."""

from lora2.data.glue import GLUE_TASKS
from lora2.data.load import TASK_NAMES, load_task
from lora2.data.own_data import load_labelled, load_texts
from lora2.data.task import Kind, TaskData
from lora2.data.tokenization import tokenize, tokenize_dataset

__all__ = [
    "GLUE_TASKS",
    "TASK_NAMES",
    "Kind",
    "TaskData",
    "load_labelled",
    "load_task",
    "load_texts",
    "tokenize",
    "tokenize_dataset",
]
