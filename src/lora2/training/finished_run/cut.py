"""Cuts the adapter of a finished run at one threshold on its singular values."""

from __future__ import annotations

from dataclasses import replace

from lora2.errors import UserError
from lora2.training.finished_run.loaded_run import LoadedRun
from lora2.training.methods.registry import method_of
from lora2.tuners.lora2.truncation import Truncation, truncate_adapter


def cut_run(
    run: LoadedRun, *, rank: float | None = None, size: float | None = None
) -> tuple[LoadedRun, Truncation]:
    """Return a run with its adapter cut, and what the cut has left; `run` must not be used again.

    Args:
        run: a finished run of LoRA², LoRA or AdaLoRA.
        rank: singular values to keep, on average over the matrices.
        size: parameters to keep at most, as a LoRA's; below 1, a share of those it has.

    Raises:
        UserError: an adapter that is no low-rank change, or a number out of its range.
    """
    method = method_of(run.settings)
    if method.as_lora2 is None:
        option = "rank" if rank is not None else "size"
        raise UserError(
            f"{option}: {method.label} has no singular values to cut; leave {option} out."
        )
    model = method.as_lora2(run.model, run.folder.adapter)
    done = truncate_adapter(model, rank=rank, size=size)
    return replace(run, model=model), done
