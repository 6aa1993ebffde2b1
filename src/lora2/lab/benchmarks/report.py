"""Tables of a benchmark, one function a section: results as measured → what is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lora2.lab.benchmarks.methods import ALL_METHODS
from lora2.lab.benchmarks.ratios import differs
from lora2.lab.benchmarks.record import MEBIBYTE, BenchmarkRecord, Result
from lora2.lab.benchmarks.steps import BASELINES
from lora2.lab.benchmarks.sweeps import BATCH

# This mark is printed before a ratio.
_UNDECIDED = "~"
_HEADINGS = {
    "floor": "/ floor",
    "lora": "/ LoRA",
    "adalora": "/ AdaLoRA",
    "lora2-dense": "/ dense",
}


def label(method: str) -> str:
    """Return a method's name as tables print it."""
    return ALL_METHODS[method].label if method in ALL_METHODS else method


def steps_tables(record: BenchmarkRecord) -> list[Table]:
    """Return seconds of a step and ratios, median and quartiles."""
    return [_steps_table(record, result) for result in record.results]


def _steps_table(record: BenchmarkRecord, result: Result) -> Table:
    baselines = [name for name in BASELINES if name in result["seconds"]]
    has_overhead = {"floor", "lora"} <= result["seconds"].keys()
    launches = result.get("kernel_launches")
    headings = ["seconds", *(_HEADINGS[name] for name in baselines)]
    headings += ["overhead"] * has_overhead + ["kernels"] * bool(launches)
    table = _table(record, result, "method", headings)
    table.caption = "Under a ratio, its quartiles over the rounds."
    if any(not differs(**row["ratios"][other]) for row, other in _pairs(result, baselines)):
        table.caption += (
            f" {_UNDECIDED}: the rounds scatter more than the two differ (the quartiles are wider "
            "apart than the median is from 1), so which is faster is not decided."
        )
    if has_overhead:
        table.caption += " Overhead: (method − floor) / (LoRA − floor)."
    for name, row in result["summary"].items():
        cells = [_number(row["seconds"]["median"])]
        cells += [_ratio(name, other, row["ratios"][other]) for other in baselines]
        cells += [_with_quartiles(row["overhead"])] if has_overhead else []
        cells += [str(launches[name])] if launches else []
        table.add_row(label(name), *cells)
    return table


def _pairs(result: Result, baselines: Sequence[str]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the rows of methods with the baselines that they are compared with: not themselves."""
    rows = result["summary"].items()
    return [(row, other) for name, row in rows for other in baselines if other != name]


def _ratio(name: str, other: str, spread: Mapping[str, float]) -> str:
    mark = "" if name == other or differs(**spread) else f"{_UNDECIDED} "
    return f"{mark}{_with_quartiles(spread)}"


def memory_tables(record: BenchmarkRecord) -> list[Table]:
    """Return the peak memory of training steps in MiB."""
    tables = []
    for result in record.results:
        table = _table(record, result, "method", ["peak, MiB", "added by the steps", "/ LoRA"])
        lora = result["bytes"].get("lora")
        for name, counted in result["bytes"].items():
            added = counted["added"]
            table.add_row(
                label(name),
                f"{counted['peak'] / MEBIBYTE:,.1f}",
                f"{added / MEBIBYTE:,.1f}",
                _number(added / lora["added"]) if lora and lora["added"] else "–",
            )
        tables.append(table)
    return tables


def storage_tables(record: BenchmarkRecord) -> list[Table]:
    """Return bytes and milliseconds of saving, loading and merging."""
    tables = []
    for result in record.results:
        table = _table(record, result, "method", ["KiB", "save, ms", "load, ms", "merge, ms"])
        for name, summary in result["summary"].items():
            cells = [_milliseconds(summary[action]) for action in ("save", "load", "merge")]
            table.add_row(label(name), f"{result['bytes'][name] / 1024:,.0f}", *cells)
        tables.append(table)
    return tables


def parts_tables(record: BenchmarkRecord) -> list[Table]:
    """Return the shares of orthogonality and allocation, and the allocation's time by width."""
    tables = []
    for result in record.results:
        table = _table(record, result, "part of a LoRA² step", ["share", "quartiles"])
        for name, share in result["summary"]["shares"].items():
            table.add_row(
                name, _percent(share["median"]), f"{_percent(share['lower'])} – "
                f"{_percent(share['upper'])}",
            )  # fmt: skip
        step = result["summary"]["seconds"]["step"]["median"]
        table.caption = f"{result['adapted_matrices']} matrices, {_number(step)} s a step"
        tables.append(table)
    widths = record.extra.get("widths")
    if widths:
        title = f"allocation of {widths['matrices']} matrices d × d"
        table = _plain(title, "d", ["milliseconds"])
        for width, seconds in widths["seconds"].items():
            table.add_row(width, _milliseconds(seconds))
        table.add_row("ratio", _number(widths["ratio"]["median"]))
        tables.append(table)
    return tables


def sweeps_tables(record: BenchmarkRecord) -> list[Table]:
    """Return one table for each sweep."""
    tables = []
    for result in record.results:
        for name, sweep in result["sweeps"].items():
            headings = ["LoRA², s", "/ floor", "/ LoRA", "/ first row", "overhead"]
            table = _table(record, result, name, headings)
            for value, point in sweep["points"].items():
                ratios = ("to_floor", "to_lora", "to_first", "overhead")
                table.add_row(
                    value,
                    _number(point["seconds"]["lora2"]["median"]),
                    *(_number(point[key]["median"]) for key in ratios),
                )
            tables.append(table)
    return tables


def compile_tables(record: BenchmarkRecord) -> list[Table]:
    """Return graph breaks and seconds of compiled steps."""
    tables = []
    for result in record.results:
        table = _table(record, result, "compiled", ["graph breaks", "graphs", "seconds", "/ LoRA"])
        for name, counted in result["graphs"].items():
            to_lora = {"lora2": _number(result["summary"]["to_lora"]["median"]), "lora": "1"}
            table.add_row(
                "no adapter, head alone" if name == "base" else label(name),
                str(counted["breaks"]),
                str(counted["graphs"]),
                _number(result["summary"]["seconds"][name]["median"]),
                to_lora.get(name, "–"),
            )
        tables.append(table)
    return tables


def _table(record: BenchmarkRecord, result: Result, first: str, headings: Sequence[str]) -> Table:
    options: Mapping[str, Any] = record.options
    facts = {
        BATCH: f"{result['batch_size']} × {result['length']} tokens",
        "dtype": options["dtype"],
        **{name: f"{name} = {options[name]}" for name in ("k", "r")},
    }
    # The rows of a sweep's table name what grows.
    shared = [fact for name, fact in facts.items() if name != first]
    return _plain(", ".join([result["label"], *shared]), first, headings)


def _plain(title: str, first: str, headings: Sequence[str]) -> Table:
    # Eight columns of figures fit into a terminal of 80 only without lines between them.
    table = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _number(value: float) -> str:
    return f"{value:.3f}"


def _with_quartiles(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3f}\n{spread['lower']:.2f}–{spread['upper']:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _milliseconds(seconds: Mapping[str, float]) -> str:
    return f"{1000 * seconds['median']:,.2f}"
