"""The text of a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora2.exchange.model_card.facts import AdapterFacts

FOLDER = "path/to/this/folder"


@dataclass(frozen=True)
class RunFacts:
    """What a training run knows in addition to the adapter.

    Attributes:
        method: the method's name.
        task: name of the task or of the user's data.
        results: rows of a table: what was measured, and its metrics by name.
        commands: commands of `lora2` that use the run.
    """

    method: str
    task: str
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    commands: Sequence[str] = ()


def adapter_card(facts: AdapterFacts, run: RunFacts | None = None) -> str:
    """Return the text of the card of a saved adapter, in Markdown."""
    sections = [
        f"# {facts.base.title} with {facts.method}",
        _needs(facts),
        _table(facts, run),
        _results(run),
        _loading(facts),
        _leaving(facts),
        _commands(run),
        _ranks(facts),
    ]
    return "\n\n".join(filter(None, sections))


def lora_card(facts: AdapterFacts, ranks: Mapping[str, int]) -> str:
    """Return the text of the card of a LoRA that was exported from an adapter."""
    sections = [
        f"# {facts.base.title} with LoRA",
        f"A plain LoRA, exported from a {facts.method} adapter. It computes what that adapter "
        "computed when it was exported. PEFT alone loads it; the `lora2` package is not needed.",
        f"* Base model: {facts.base.in_words}\n* Ranks of the change: {_spread(ranks)}",
        _code(_load_lines(facts, ())),
    ]
    return "\n\n".join(sections)


def _needs(facts: AdapterFacts) -> str:
    if not facts.needs_lora2:
        return ""
    return (
        "**This adapter needs the Python package `lora2`**: `pip install lora2`, and `import "
        f"lora2` before PEFT loads it. Without that, PEFT raises `KeyError: '{facts.type_name}'`."
    )


def _table(facts: AdapterFacts, run: RunFacts | None) -> str:
    rows = {
        "Base model": facts.base.in_words,
        "Task": run.task if run else facts.task_type,
        "Method": f"{facts.method}: {facts.size}" if facts.size else facts.method,
        _kept_label(facts): _spread(facts.ranks) if facts.ranks else None,
    }
    return "\n".join(f"* {name}: {value}" for name, value in rows.items() if value)


def _kept_label(facts: AdapterFacts) -> str:
    return f"{facts.pruned_parts.capitalize()} kept"


def _spread(ranks: Mapping[str, int]) -> str:
    values = list(ranks.values())
    if not values:
        return "none"
    each = f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"
    return f"{sum(values)} in {len(values)} matrices, {each} in each"


def _results(run: RunFacts | None) -> str:
    if run is None or not run.results:
        return ""
    names = list(dict.fromkeys(name for row in run.results.values() for name in row))
    head = ["|".join(["", " ", *names, ""]), "|" + "---|" * (len(names) + 1)]
    rows = [
        "|".join(["", label, *(_figure(row.get(name)) for name in names), ""])
        for label, row in run.results.items()
    ]
    return "## Results\n\n" + "\n".join(head + rows)


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loading(facts: AdapterFacts) -> str:
    first = ("import lora2  # makes the method known to PEFT",) if facts.needs_lora2 else ()
    return "## Load\n\n" + _code(_load_lines(facts, first))


def _load_lines(facts: AdapterFacts, first: Sequence[str]) -> list[str]:
    lines = [*first, "from peft import PeftModel"]
    if facts.base_class is None:
        return [
            *lines,
            "",
            f"base = ...  # the base model, a {facts.base.shown}",
            f'model = PeftModel.from_pretrained(base, "{FOLDER}")',
        ]
    # The base model may have a head for other labels; the adapter brings its own.
    fields = f", ignore_mismatched_sizes=True, num_labels={facts.labels}"
    labels = "" if facts.labels is None else fields
    rows = f"base.resize_token_embeddings({facts.vocabulary})  # with those of added tokens"
    return [
        *lines,
        f"from transformers import {facts.base_class}",
        "",
        f'base = {facts.base_class}.from_pretrained("{facts.base.to_load}"{labels})',
        *([] if facts.vocabulary is None else [rows]),
        f'model = PeftModel.from_pretrained(base, "{FOLDER}")',
    ]


def _leaving(facts: AdapterFacts) -> str:
    if facts.merge_refusal is not None:
        return f"It cannot be merged into the weights, because {facts.merge_refusal}."
    lines = ["model.merge_and_unload()  # the base model with the change in its weights"]
    if facts.needs_lora2:
        lines = [
            'lora2.export_lora(model, "lora")  # a plain LoRA, for PEFT, vLLM and others alone',
            'lora2.export_merged(model, "merged")  # a checkpoint, read back and checked',
            *lines,
        ]
    return "## Merge or export\n\nOne of:\n\n" + _code(lines)


def _commands(run: RunFacts | None) -> str:
    if run is None or not run.commands:
        return ""
    return "From the folder of the run:\n\n" + _code(run.commands, "shell")


def _ranks(facts: AdapterFacts) -> str:
    if not facts.ranks:
        return ""
    rows = "\n".join(f"|`{name}`|{count}|" for name, count in facts.ranks.items())
    label = _kept_label(facts)
    return (
        f"<details><summary>{label}, by module</summary>\n\n|module|kept|\n|---|---|\n{rows}\n\n"
        "</details>"
    )


def _code(lines: Sequence[str], language: str = "python") -> str:
    return f"```{language}\n" + "\n".join(lines) + "\n```"
