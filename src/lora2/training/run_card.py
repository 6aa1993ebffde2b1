"""The part of an adapter's model card that describes the run that trained it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftModel

from lora2.exchange.merge_support import reason_against_merging
from lora2.exchange.model_card.words import RunFacts
from lora2.training.methods.registry import method_of
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.summary import RunSummary
from lora2.training.prepare import PreparedRun


def run_facts(prepared: PreparedRun, summary: RunSummary) -> RunFacts:
    """Return the task, what the run reached on it, and the commands that use the run."""
    results = {
        "before training": summary.before,
        "best": summary.best,
        "last": summary.last,
        "head alone, best": summary.baseline and summary.baseline["best"],
    }
    method = method_of(prepared.settings)
    model: Any = prepared.trainer.accelerator.unwrap_model(prepared.trainer.model)
    becomes_lora = method.as_lora == "written as one"
    merges = method.merges and not (isinstance(model, PeftModel) and reason_against_merging(model))
    return RunFacts(
        method=method.label,
        task=f"{prepared.task.name} (main metric: {prepared.main_metric})",
        results={label: _measured(prepared, record) for label, record in results.items() if record},
        commands=[
            objective_of(prepared.settings).output.command,
            "lora2 evaluate RUN",
            *(["lora2 export RUN --to merged --output DIR"] if merges else []),
            *(["lora2 export RUN --to lora --output DIR"] if becomes_lora else []),
        ],
    )


def _measured(prepared: PreparedRun, record: Mapping[str, Any]) -> dict[str, Any]:
    """The step and the metrics of one evaluation; of several validation sets, those of each."""
    names = ("step", *prepared.task.recorded_metrics)
    return {name: record[name] for name in names if name in record}
