"""The options of `lora2 train`, as typed dataclasses, and the recipes of the tasks."""
