"""The commands that resume a run, or make it again, as messages quote them."""

from __future__ import annotations

import shlex

from lora2.training.on_disk.run_folder import RunFolder


def command_into(folder: RunFolder) -> str:
    """Return the command that trains into a folder, to which options are to be added."""
    return f"lora2 train --output_dir {shlex.quote(str(folder.path))}"


def command_to_resume(folder: RunFolder) -> str:
    """Return the command that resumes the run in a folder."""
    return f"{command_into(folder)} --resume"


def command_to_start_over(folder: RunFolder) -> str:
    """Return the command that makes the same run again."""
    config, path = (shlex.quote(str(each)) for each in (folder.config_file, folder.path))
    return f"lora2 train --config {config} --output_dir {path} --overwrite"
