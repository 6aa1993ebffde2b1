"""The page about what the model types did."""

from __future__ import annotations

from collections.abc import Iterator

import peft
import torch
import transformers

from .checks import CHECKS, METHODS, Outcome


def page(outcomes: list[Outcome]) -> str:
    """Return the page: what was built, a table, and the sentences of its cells."""
    built = [outcome for outcome in outcomes if outcome.unbuilt is None]
    unbuilt = [outcome.model_type for outcome in outcomes if outcome.unbuilt is not None]
    behind = [o.model_type for o in built if _behind(o)]
    sentences = [sentence for outcome in built for sentence in _sentences(outcome)]
    return "\n".join(
        [
            "# Model types",
            "",
            'Adapters on all linear layers (`target_modules="all-linear"`) of tiny random models, '
            "one of each model type of transformers' text, vision and speech classes that could be "
            "made small: `python -m scripts.model_types docs/results/model-types.md`, "
            f"transformers {transformers.__version__}, PEFT {peft.__version__}, torch "
            f"{torch.__version__.partition('+')[0]}.",
            "",
            f"* {len(built)} model types were built. LoRA² fails a check that PEFT's LoRA passes "
            f"on {', '.join(behind) or 'none'}; pruning and export are checks of LoRA² alone.",
            "* A cell has LoRA's result, then LoRA²'s. – means that the model or the method has no "
            "such thing. What is not a yes is below the table; where both fail, the model or PEFT "
            "is the reason.",
            "",
            f"| model type | kind | {' | '.join(CHECKS)} |",
            f"|{'---|' * (len(CHECKS) + 2)}",
            *(
                f"| {o.model_type} | {o.kind} | "
                + " | ".join(_cell(o, check) for check in CHECKS)
                + " |"
                for o in built
            ),
            "",
            *sentences,
            "",
            f"Not made small by this script, so nothing is said of them: {', '.join(unbuilt)}.",
            "",
        ]
    )


def _sentences(outcome: Outcome) -> Iterator[str]:
    """Yield what is no yes, each once, with the methods and checks that it is said of."""
    said_of: dict[str, dict[str, list[str]]] = {}
    for method, cells in outcome.cells.items():
        for check, said in cells.items():
            if said not in ("yes", "–"):
                said_of.setdefault(said, {}).setdefault(method, []).append(check)
    for said, methods in said_of.items():
        where = "; ".join(f"{method}: {', '.join(checks)}" for method, checks in methods.items())
        yield f"* {outcome.model_type} ({where}): {said}"


def _cell(outcome: Outcome, check: str) -> str:
    words = [outcome.cells[method][check] for method in METHODS]
    return " / ".join(word if word in ("yes", "–") else "no" for word in words)


def _behind(outcome: Outcome) -> list[str]:
    """Return the checks that LoRA² fails, and LoRA passes or, where it has none, would reach."""
    of_lora, of_lora2 = (outcome.cells[method] for method in METHODS)
    instead = {"pruning": "training", "export": "reloading"}
    return [
        check
        for check in CHECKS
        if of_lora2[check] not in ("yes", "–")
        and of_lora[check if of_lora[check] != "–" else instead.get(check, check)] in ("yes", "–")
    ]


def line(outcome: Outcome) -> str:
    """Return what to print of a model type."""
    if outcome.unbuilt is not None:
        return f"{outcome.model_type}: not built: {outcome.unbuilt}"
    behind = {check: outcome.cells["LoRA²"][check] for check in _behind(outcome)}
    ahead = {c: w for c, w in outcome.cells["LoRA"].items() if w not in ("yes", "–")}
    return f"{outcome.model_type}: {behind or 'ok'}{f', LoRA: {ahead}' if ahead else ''}"
