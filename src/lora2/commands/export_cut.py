"""Cuts the adapter of a run before it is exported: `lora2 export --rank` and `--size`."""

from __future__ import annotations

from dataclasses import replace

from lora2.errors import UserError
from lora2.exchange.from_lora import import_lora
from lora2.training.loaded_run import SavedRun
from lora2.training.methods.registry import METHODS
from lora2.tuners.lora2.truncation import truncate_adapter


def cut_run(run: SavedRun, *, rank: float | None, size: float | None) -> tuple[SavedRun, list[str]]:
    """Return a run with its adapter cut, and what to say of it; as it is without rank and size.

    Raises:
        UserError: an adapter that is no low-rank change, or a number out of its range.
    """
    if rank is None and size is None:
        return run, []
    method = METHODS[run.settings.run.method]
    model = run.model
    if method.name in ("lora", "adalora"):
        # As LoRA² it is the same change, exactly, and can be cut.
        base = run.model.unload()
        model = import_lora(base, run.folder.adapter).eval()
    elif method.name != "lora2":
        option = "rank" if rank is not None else "size"
        raise UserError(
            f"{option}: {method.label} has no singular values to cut; leave {option} out."
        )
    done = truncate_adapter(model, rank=rank, size=size)
    worst = max(done.errors, key=done.errors.__getitem__)
    said = [
        f"Kept {sum(done.ranks.values()):,} singular values of {len(done.ranks)} matrices, "
        f"{done.parameters:,} parameters as a LoRA",
        f"Left out {100 * done.error:.2f} % of the change in all, at most "
        f"{100 * done.errors[worst]:.2f} % ({worst})",
    ]
    return replace(run, model=model), said
