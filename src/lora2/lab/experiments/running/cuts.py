"""The adapter of a finished run, cut to smaller sizes and scored again (PARA, arXiv 2604.27796)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora2.data.tasks.task import recorded_name
from lora2.training.finished_run.cut import cut_run
from lora2.training.objectives.registry import objective_of
from lora2.training.run_loading import load_saved_run


def score_cuts(
    run: Path, sizes: Sequence[int], validation: Mapping[str, Any], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield what the last state of an adapter reaches at each size, by the run's own metrics.

    Args:
        run: the folder of a finished run.
        sizes: parameters to keep at most, as a LoRA's.
        validation: the validation sets of the run's task, by name.
        batch_size: rows at once.
    """
    for size in sizes:
        # It is loaded each time, so that every error is one of the whole change.
        cut, done = cut_run(load_saved_run(run), size=size)
        objective = objective_of(cut.settings)
        metrics: dict[str, float] = {}
        for name, rows in validation.items():
            scored = objective.measure(cut, objective.scored_rows(cut, rows), batch_size)
            metrics |= {
                recorded_name(name, metric, validation): value
                for metric, value in scored.metrics.items()
            }
        yield {"size": size, "parameters": done.parameters, "error": done.error, **metrics}
