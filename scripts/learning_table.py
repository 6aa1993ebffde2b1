"""Print the records of `learning.py` as a Markdown table: one row per setting, mean over seeds.

python scripts/learning_table.py records/learning.jsonl
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

COLUMNS = ("task", "method", "k", "r", "target_r", "alpha", "learning_rate", "epochs")


def rows(lines: list[str]) -> list[str]:
    """Markdown rows, best setting of a task first."""
    runs: dict[tuple[object, ...], list[dict[str, list[float]]]] = defaultdict(list)
    for line in lines:
        record = json.loads(line)
        settings = record["settings"]
        runs[tuple(settings[name] for name in COLUMNS)].append(record)
    table = []
    for settings, records in runs.items():
        best = [max(record["metric"]) for record in records]
        last = [record["metric"][-1] for record in records]
        histories = " · ".join(" ".join(f"{m:.0f}" for m in r["metric"]) for r in records)
        cells = [str(value if value is not None else "–") for value in settings]
        cells += [spread(best), spread(last), str(len(records)), histories]
        table.append((settings[0], -statistics.mean(best), "| " + " | ".join(cells) + " |"))
    return [row for _, _, row in sorted(table)]


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def main() -> None:
    header = [*COLUMNS, "best", "last", "seeds", "metric after each epoch, by seed"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    print("\n".join(rows(Path(sys.argv[1]).read_text().splitlines())))


if __name__ == "__main__":
    main()
