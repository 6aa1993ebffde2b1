"""Compare run folders of `lora2 train`: mean and spread over seeds, best and last, steps to 80 %.

    for seed in 0 1 2; do
        lora2 train --k 8 --seed $seed --eval_strategy steps --eval_steps 21 --baseline none \
            --output_dir runs/lora2-k8-s$seed
    done
    python scripts/collect_runs.py runs/* --records records/runs.jsonl

writes one line per run into the records (settings, metric at each evaluation, versions) and prints
a Markdown table of all records. Without run folders it prints the table of the records alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

LORA2_ONLY = ("init_r", "target_r", "tinit", "tfinal")
SETTINGS = ("task", "method", "k", "lora_alpha", "learning_rate", *LORA2_ONLY)
THRESHOLD = 0.8


def record_of(run: Path) -> dict[str, Any]:
    """One finished run as a line of the records."""
    summary = json.loads((run / "summary.json").read_text())
    options = yaml.safe_load((run / "config.yaml").read_text())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    metric = summary["main_metric"]
    return {
        "settings": {
            name: options.get(name)
            for name in SETTINGS
            if name not in LORA2_ONLY or options["method"] == "lora2"
        }
        | {"task": summary["task"]},
        "seed": summary["seed"],
        "steps": summary["steps"],
        "metric": metric,
        "evaluations": [[entry["step"], entry[metric]] for entry in map(json.loads, lines)],
        "trainable_parameters": summary["trainable_parameters"],
        "seconds": summary["seconds"],
        "versions": summary["versions"],
    }


def table(records: list[dict[str, Any]]) -> list[str]:
    """Markdown rows, one per setting."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[json.dumps(record["settings"] | {"steps": record["steps"]})].append(record)
    columns = [*SETTINGS, "steps"]
    rows = ["| " + " | ".join([*columns, "seeds", "best", "last", "steps to 80 %"]) + " |"]
    rows.append("|" + "---|" * (len(columns) + 4))
    for settings, runs in sorted(groups.items()):
        values = json.loads(settings)
        cells = [str(values.get(name, "–")) for name in columns]
        cells.append(", ".join(str(run["seed"]) for run in runs))
        cells.append(spread([max(value for _, value in run["evaluations"]) for run in runs]))
        cells.append(spread([run["evaluations"][-1][1] for run in runs]))
        reached = [str(first_step_above(run)) for run in runs]
        cells.append(" ".join(reached) if values["task"] == "agreement" else "–")
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def first_step_above(run: dict[str, Any]) -> int | str:
    return next((step for step, value in run["evaluations"] if value > THRESHOLD), "never")


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--records", type=Path, required=True)
    args = parser.parse_args()
    lines = args.records.read_text().splitlines() if args.records.exists() else []
    finished = [run for run in args.runs if (run / "summary.json").exists()]
    new = [json.dumps(record_of(run)) for run in finished]
    lines += [line for line in new if line not in lines]
    args.records.parent.mkdir(parents=True, exist_ok=True)
    args.records.write_text("".join(line + "\n" for line in lines))
    print("\n".join(table([json.loads(line) for line in lines])))


if __name__ == "__main__":
    main()
