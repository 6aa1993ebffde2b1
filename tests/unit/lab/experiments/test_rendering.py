"""Tables as Markdown, CSV, LaTeX and HTML: the same numbers, nothing that breaks the format."""

import base64
import csv
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest

from experiment_case import FIND, GRID, by_run, finished
from lora2.lab.experiments.figures.pareto_figure import ParetoPoint, costs, pareto_figure
from lora2.lab.experiments.rendering import comma_separated, latex, lines, markdown
from lora2.lab.experiments.rendering.page import PageFigure, render_page
from lora2.lab.experiments.rendering.printout import printout
from lora2.lab.experiments.tables.grid import Measure
from lora2.lab.experiments.tables.summary import summarize
from lora2.lab.experiments.tables.table import Average, Cell, Parameters

TABLE = summarize(GRID, FIND)
MEASURES = (
    Measure("file", "file, kB", lambda record: 1234.5),
    Measure("lost", "lost", lambda record: record.forgotten.get("distance"), 2),
)
NASTY = '<b>&amp; a|b *c* $x_1$ 50 % {#} \\ ~ ^ " LoRA²'
PNG = b"\x89PNG not really"


def named(title, **row):
    """The table with another title, and other fields of its first row."""
    first = dataclasses.replace(TABLE.rows[0], row=dataclasses.replace(GRID.rows[0], **row))
    return dataclasses.replace(TABLE, title=title, rows=(first,))


def whole_page(table=TABLE):
    return render_page("A & B", [printout(table)], [PageFigure("figure3", "Kept <here>", PNG)])


RENDERERS = {
    "markdown": lambda table: markdown.render(printout(table)),
    "csv": comma_separated.render,
    "latex": lambda table: latex.render(printout(table)),
    "html": whole_page,
}


# --- the lines that people read ---


def test_a_row_is_best_last_unfinished_paper_and_difference():
    assert lines.lines(TABLE.rows[0]) == [
        ("LoRA²", "k=1", "best", "1,200 → 1,000–1,200",
         "72.00 ± 2.00 (3)", "91.00 ± 1.41 (2)", "82.00 ± 2.83 (2)", "78.75 ± 1.77 (2)"),
        ("", "", "last", "",
         "70.00 ± 1.00 (3)", "50.00 ± 0.00 (2)", "25.00 ± 0.00 (2)", "53.75 ± 0.71 (2)"),
        ("", "", "not finished", "", "", "1 failed", "1 failed", ""),
        ("", "", "paper", "0.17M", "70.63", "90.19", "90.38", "80.46"),
        ("", "", "best − paper", "", "+1.37", "+0.81", "−8.38", "−1.71"),
    ]  # fmt: skip


def test_a_row_that_the_paper_lacks_has_no_line_for_it_and_missing_cells_are_dashes():
    assert lines.lines(TABLE.rows[1]) == [
        ("LoRA", "r=2", "best", "1,200", "60.00 (1)", "–", "–", "–"),
        ("", "", "last", "", "55.00 (1)", "–", "–", "–"),
        ("", "", "not finished", "", "2 missing", "3 missing", "3 missing", ""),
    ]


def test_measures_are_behind_the_average_and_written_once():
    table = summarize(dataclasses.replace(GRID, measures=MEASURES), FIND)
    assert lines.heading(table)[-3:] == ("average", "file, kB", "lost")
    found = lines.lines(table.rows[0], MEASURES)
    assert [line[-2:] for line in found] == [("1,234", "–"), *[("", "")] * 4]
    assert {len(line) for line in found} == {len(lines.heading(table))}
    rows = list(csv.DictReader(io.StringIO(comma_separated.render(table))))
    (line,) = [line for line in rows if (line["label"], line["column"]) == ("LoRA²", "file")]
    assert (line["last_mean"], line["last_count"], line["best_mean"]) == ("1234.5", "2", "")


@pytest.mark.parametrize(
    ("numbers", "mean", "count"),
    [
        ({"cola": {0: 1, 1: 2, 2: 6}, "mnli": {0: 8, 1: 4}}, ((1 + 8) / 2 + (2 + 4) / 2) / 2, 2),
        ({"cola": {0: 1, 1: 2, 2: 6}, "mnli": {1: 4}}, (2 + 4) / 2, 1),
    ],
)
def test_a_measure_is_averaged_as_the_scores_are(numbers, mean, count):
    def of(record):
        return numbers[record.description.task].get(record.description.seed)

    table = summarize(dataclasses.replace(GRID, measures=(Measure("one", "one", of),)), FIND)
    (found,) = table.rows[0].measures
    assert (found.mean, found.count) == (mean, count)


def test_costs_are_those_of_rows_with_a_score_in_every_column():
    rows = tuple(dataclasses.replace(row, paper=None) for row in GRID.rows)
    grid = dataclasses.replace(GRID, rows=rows, measures=MEASURES)
    panels = costs(summarize(grid, FIND, {}))
    assert list(panels) == ["parameters at the end", "file, kB", "lost"]
    # Means of 1,000 and 1,200; LoRA has no run of MNLI, and nothing was lost on record.
    (found,) = panels["parameters at the end"].items()
    assert found == ("LoRA² k=1", ParetoPoint(1100, 53.75, pytest.approx(0.707, abs=1e-3)))
    assert panels["file, kB"]["LoRA² k=1"].cost == 1234.5
    assert panels["lost"] == {}
    assert pareto_figure(grid, FIND).startswith(b"\x89PNG")
    assert pareto_figure(grid, lambda run: None) is None


def test_a_size_is_averaged_over_tasks_and_seeds_and_is_no_middle_of_a_range():
    sizes = {"cola": (1200, 1200), "mnli": (1000, 400)}
    metrics = {"matthews_correlation": 0.5, "matched_accuracy": 0.5, "mismatched_accuracy": 0.5}
    records = [
        finished(GRID.rows[0].runs[task][seed], metrics, metrics,
                 final_parameters={"adapter": size, "head": 50})
        for task, of_task in sizes.items()
        for seed, size in enumerate(of_task)
    ]  # fmt: skip
    rows = (dataclasses.replace(GRID.rows[0], paper=None),)
    panels = costs(summarize(dataclasses.replace(GRID, rows=rows), by_run(*records), {}))
    (point,) = panels["parameters at the end"].values()
    assert point.cost == ((1200 + 1000) / 2 + (1200 + 400) / 2) / 2


def test_a_row_before_any_run_is_dashes_beside_the_paper():
    found = lines.lines(summarize(GRID, by_run()).rows[0])
    assert [line[2] for line in found] == ["best", "last", "paper"]
    assert set(found[0][3:]) == {"–"}


def test_an_average_that_the_paper_prints_otherwise_stands_beside_what_its_entries_give():
    average = Average(None, None, paper=89.425625, as_printed=89.68)
    row = dataclasses.replace(
        TABLE.rows[0], average=average, cells=(Cell(None, None),), parameters=NO_PARAMETERS
    )
    assert lines.lines(row)[2][-1] == "89.68, entries 89.43"


NO_PARAMETERS = Parameters(None, None, None)


@pytest.mark.parametrize("name", RENDERERS)
def test_the_same_table_gives_the_same_text(name):
    again = summarize(GRID, FIND)
    assert RENDERERS[name](again) == RENDERERS[name](TABLE)


# --- Markdown ---


def test_markdown_is_a_heading_a_table_and_notes():
    text = markdown.render(printout(TABLE)).splitlines()
    assert text[:5] == [
        "## GLUE & more",
        "",
        "| method | setting |  | parameters | CoLA | MNLI-m | MNLI-mm | average |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: |",
        "| LoRA² | k=1 | best | 1,200 → 1,000–1,200 | 72.00 ± 2.00 (3) | 91.00 ± 1.41 (2) | "
        "82.00 ± 2.83 (2) | 78.75 ± 1.77 (2) |",
    ]
    assert "- One & only." in text


def test_markdown_escapes_what_it_would_read():
    line = markdown.render(printout(named("t", label=NASTY))).splitlines()[4]
    assert line.startswith(
        r'| \<b\>\&amp; a\|b \*c\* $x\_1$ 50 % {#} \\ \~ ^ " LoRA² | k=1 | best |'
    )


def test_a_line_break_in_a_label_does_not_end_the_row():
    assert "| two lines | k=1 |" in markdown.render(printout(named("t", label="two\nlines")))


# --- CSV ---


def test_csv_reads_back_as_the_numbers_of_the_table():
    found = list(csv.DictReader(io.StringIO(comma_separated.render(TABLE))))
    expected = [
        (row, name, cell)
        for row in TABLE.rows
        for name, cell in zip(
            ("cola_mcc", "mnli_m_acc", "mnli_mm_acc", "average"),
            (*row.cells, row.average),
            strict=True,
        )
    ]
    assert len(found) == len(expected) == 8
    for line, (row, name, cell) in zip(found, expected, strict=True):
        assert (line["label"], line["setting"], line["column"]) == (
            row.row.label, row.row.setting, name,
        )  # fmt: skip
        for which, estimate in (("best", cell.best), ("last", cell.last)):
            assert int(line[f"{which}_count"]) == (estimate.count if estimate else 0)
            assert number(line[f"{which}_mean"]) == (estimate.mean if estimate else None)
            assert number(line[f"{which}_deviation"]) == (estimate.deviation if estimate else None)
        # An average counts no runs of its own.
        counts = ("", "") if name == "average" else (str(cell.failed), str(cell.missing))
        assert (line["failed"], line["missing"]) == counts
        assert (number(line["paper"]), number(line["difference"])) == (cell.paper, cell.difference)


def number(text):
    return float(text) if text else None


def test_csv_holds_the_parameters_of_each_row():
    found = list(csv.DictReader(io.StringIO(comma_separated.render(TABLE))))
    names = [name for name in found[0] if "parameters" in name]
    assert [found[0][name] for name in names] == ["1200", "1200", "1000", "1200", "0.17M"]
    assert [found[-1][name] for name in names] == ["1200", "1200", "1200", "1200", ""]


def test_csv_keeps_commas_and_quotes_in_labels():
    label = 'Q,K "both"\nlines'
    text = comma_separated.render(named("t", label=label))
    assert {line["label"] for line in csv.DictReader(io.StringIO(text))} == {label}


# --- LaTeX ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 %", r"a\_b \& 50 \%"),
        ("LoRA²", r"LoRA\textsuperscript{2}"),
        ("70.6 ± 0.4", r"70.6 $\pm$ 0.4"),
        ("−0.03", "$-$0.03"),
        ("–", "--"),
        ("$#{}", r"\$\#\{\}"),
        ("\\~^", r"\textbackslash{}\textasciitilde{}\textasciicircum{}"),
        ("𝒰𝒱", r"$\mathcal{U}$$\mathcal{V}$"),
        ("two\n\nparagraphs", "two paragraphs"),
    ],
)
def test_latex_escapes_what_it_would_read(text, expected):
    found = latex.render(printout(named(text, label=text)))
    assert rf"\caption{{{expected}}}" in found
    assert f"\n{expected} & k=1 & best &" in found


def test_latex_environments_are_closed_and_rows_have_as_many_cells_as_columns():
    text = latex.render(printout(TABLE))
    begun, ended = re.findall(r"\\begin{(.*?)}", text), re.findall(r"\\end{(.*?)}", text)
    assert begun == ended[::-1] == ["table*", "tabular"]
    (alignment,) = re.findall(r"\\begin{tabular}{(\w+)}", text)
    assert alignment == "lllrrrrr"
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(alignment)}
    assert len(rows) == 1 + 5 + 3


# --- the page ---


class Elements(HTMLParser):
    """Ids, tags and text of a page; fails if an element is closed that is not open."""

    def __init__(self, page):
        super().__init__()
        self.ids, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_every_table_and_figure_has_its_name_as_id_and_a_link():
    page = Elements(whole_page())
    assert page.ids == ["table1", "figure3"]
    assert [v for n, v in page.attributes if n == "href"] == ["#table1", "#figure3"]


def test_the_page_holds_its_pictures_and_loads_nothing():
    page = Elements(whole_page())
    (source,) = [value for name, value in page.attributes if name == "src"]
    head, _, data = source.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == PNG
    assert not re.search(r"https?:|@import|url\(|<script|<link", whole_page())


def test_the_page_shows_text_as_text():
    table = dataclasses.replace(named(NASTY, label=NASTY, setting=NASTY), notes=(NASTY,))
    columns = tuple(dataclasses.replace(column, label=NASTY) for column in table.columns)
    page = Elements(whole_page(dataclasses.replace(table, columns=columns)))
    # Link and heading, method and setting, a note, and the three columns.
    assert page.texts.count(NASTY) == 2 + 2 + 1 + 3
    assert {"A & B", "Kept <here>"} <= set(page.texts)
    assert "<b>" not in whole_page(table)


def test_every_line_of_a_table_on_the_page_is_as_wide_as_its_heading():
    page = whole_page()
    assert page.count("<tbody>") == 2
    (headings,) = re.findall("<thead>.*</thead>", page)
    assert headings.count("<th ") == 8
    # Method and setting are next to all lines of their row.
    assert re.findall('rowspan="(.)">LoRA', page) == ["5", "3"]
    lines_found = re.findall("<tr class.*</tr>", page)
    assert {line.count("<td") for line in lines_found} == {5}


def test_a_page_without_notes_has_no_empty_list():
    table = dataclasses.replace(TABLE, notes=())
    assert "<ul" not in whole_page(table)
    assert "\n- " not in markdown.render(printout(table))
