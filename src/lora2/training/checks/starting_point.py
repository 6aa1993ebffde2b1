"""Checks that a run can start from an adapter that is already trained."""

from __future__ import annotations

from pathlib import Path

from lora2.errors import UserError
from lora2.training.methods.method import Method
from lora2.training.on_disk.run_folder import RunFolder


def check_start_from(start: str | None, method: Method, folder: RunFolder) -> None:
    """Check that a method can start from an adapter, which the run must not clear.

    Raises:
        UserError: it cannot, or it would.
    """
    if start is None:
        return
    # As the baseline of a run that starts from an adapter, the head alone is trained without it.
    if "start_from" not in method.options and not method.head_alone:
        raise UserError(
            f"start_from: {method.label} cannot start from an adapter; leave it out, or take "
            "--method lora2."
        )
    if Path(start).resolve().is_relative_to(folder.path.resolve()):
        raise UserError(
            f"start_from: {start} is in the run folder {folder.path}, which a new run clears; "
            "give another --output_dir."
        )
