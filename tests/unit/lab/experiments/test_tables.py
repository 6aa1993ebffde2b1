"""Records → tables: numbers worked out by hand, and the paper's own averages."""

import math

import pytest

from experiment_case import (
    COLA,
    FIND,
    GRID,
    LORA2,
    MATCHED,
    MISMATCHED,
    TABLE1_COLUMNS,
    by_run,
    finished,
    runs,
)
from lora2.lab.experiments.tables.averages import Estimate, averages_by_seed, estimate, row_average
from lora2.lab.experiments.tables.grid import Column, Grid, Row
from lora2.lab.experiments.tables.paper_numbers import TABLES, PaperRow, paper_rows
from lora2.lab.experiments.tables.printed_numbers import printed, signed
from lora2.lab.experiments.tables.summary import summarize
from lora2.lab.experiments.tables.table import Parameters

SQRT2 = math.sqrt(2)


def only_paper(name, columns):
    """The table of a grid whose rows are the paper's and whose runs are none."""
    rows = tuple(Row(key, "any", "", {}, paper=key) for key in paper_rows(name))
    return summarize(Grid(name, name, columns, rows), by_run())


def same(found, mean, deviation, count):
    assert found == Estimate(pytest.approx(mean), pytest.approx(deviation), count)


# --- the paper's numbers ---


@pytest.mark.parametrize(("table", "rows"), [*zip(TABLES, (10, 7, 5, 4), strict=True)])
def test_the_paper_has_rows_of_numbers(table, rows):
    found = paper_rows(table)
    assert len(found) == rows
    assert all(isinstance(v, float) for row in found.values() for v in row.values.values())


@pytest.mark.parametrize(
    ("table", "key", "column", "value", "parameters", "average"),
    [
        ("table1", "lora2 k=1", "cola_mcc", 70.63, "0.17M", 89.06),
        ("table1", "bitfit", "rte_acc", 76.12, "0.1M", 85.18),
        ("table1", "full fine-tuning", "qqp_f1", 89.31, "184M", 87.82),
        ("table2", "cola", "lora2_s_per_it", 1.14, None, None),
        ("table3", "uv&UV", "stsb_pearson", 91.61, None, 90.48),
        ("table4", "Q,K,V", "mrpc_acc", 89.46, "56.2k", 84.31),
    ],
)
def test_a_row_of_the_paper_is_found_by_its_key(table, key, column, value, parameters, average):
    row = paper_rows(table)[key]
    assert (row.values[column], row.parameters, row.average) == (value, parameters, average)


def test_other_tables_have_no_rows_in_the_paper():
    assert paper_rows("table9") == {}


def test_a_number_that_the_paper_lacks_is_none():
    own = {"ours": PaperRow({"cola_mcc": None}, None, None, False)}
    row = Row("Ours", "ours", "", {}, paper="ours")
    table = summarize(Grid("any", "any", (COLA,), (row,)), by_run(), own)
    assert table.rows[0].cells[0].paper is None
    assert table.rows[0].average.paper is None


# --- averages ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # (1 + 3 + 5) / 3 = 3; ((−2)² + 0 + 2²) / 2 = 4.
        ([1.0, 3.0, 5.0], Estimate(3.0, 2.0, 3)),
        ([7.0], Estimate(7.0, None, 1)),
        ([], None),
    ],
)
def test_mean_and_sample_deviation(values, expected):
    assert estimate(values) == expected


def test_the_columns_of_a_pair_count_as_one():
    # (60 + (80 + 90) / 2) / 2 = 72.5, not (60 + 80 + 90) / 3.
    values = {"cola_mcc": 60.0, "mnli_m_acc": 80.0, "mnli_mm_acc": 90.0}
    assert row_average(values, (COLA, MATCHED, MISMATCHED)) == 72.5


def test_a_pair_named_like_a_column_is_another_group():
    columns = (Column("a", "a", "t", "m"), Column("b", "b", "t", "m", pair="a"))
    assert row_average({"a": 1.0, "b": 3.0}, columns) == 2.0


def test_a_seed_without_a_value_in_some_column_has_no_average():
    values = {"cola_mcc": {0: 1.0, 1: 2.0}, "mnli_m_acc": {1: 4.0, 2: 5.0}}
    assert averages_by_seed(values, (COLA, MATCHED)) == {1: 3.0}


AGREEING = [key for key in paper_rows("table1") if key != "lora2 k=8"]


@pytest.mark.parametrize("key", AGREEING)
def test_pairs_first_gives_the_averages_that_the_paper_prints(key):
    table = only_paper("table1", TABLE1_COLUMNS)
    (row,) = [row for row in table.rows if row.row.paper == key]
    # Half a unit of the last printed digit, and what binary numbers are off.
    assert abs(row.average.paper - row.average.as_printed) <= 0.005 + 1e-9
    assert not row.average.disagrees


def test_nine_rows_of_table_1_agree():
    assert len(AGREEING) == 9


def columns_of(table):
    names = next(iter(paper_rows(table).values())).values
    return tuple(Column(name, name, name, "accuracy") for name in names)


@pytest.mark.parametrize(
    ("table", "columns", "key", "as_printed", "entries"),
    [
        ("table1", TABLE1_COLUMNS, "lora2 k=8", "89.68", "89.43"),
        ("table4", columns_of("table4"), "Q,K", "84.53", "84.48"),
    ],
)
def test_a_note_says_where_the_paper_disagrees_with_itself(
    table, columns, key, as_printed, entries
):
    notes = [note for note in only_paper(table, columns).notes if "own entries" in note]
    assert notes == [
        f"{key}: the paper prints the average {as_printed}, its own entries give {entries}; "
        "the difference is to the latter."
    ]


def test_table_3_agrees_with_itself():
    table = only_paper("table3", columns_of("table3"))
    assert not [note for note in table.notes if "own entries" in note]
    assert [row.average.as_printed for row in table.rows] == [90.31, 90.29, 90.48, 90.29, 90.63]


def test_a_note_says_whose_parameters_the_paper_counts_after_pruning():
    (note,) = [n for n in only_paper("table1", TABLE1_COLUMNS).notes if "pruning" in n]
    assert note == (
        "The paper counts parameters after pruning for adalora r=2 (0.32M), sora r=1 (0.12M), "
        "adalora r=8 (1.27M), sora r=8 (0.91M)."
    )


# --- tables ---


def test_cells_hold_best_and_last_over_seeds_in_percent():
    cola, matched, mismatched = summarize(GRID, FIND).rows[0].cells
    # 70, 72, 74 and 69, 71, 70.
    same(cola.best, 72.0, 2.0, 3)
    same(cola.last, 70.0, 1.0, 3)
    # 90, 92 and 80, 84: deviations from the mean ±1 and ±2, squares summed 2 and 8, over n − 1 = 1.
    same(matched.best, 91.0, SQRT2, 2)
    same(mismatched.best, 82.0, 2 * SQRT2, 2)
    same(mismatched.last, 25.0, 0.0, 2)


def test_a_single_seed_has_no_deviation():
    cola = summarize(GRID, FIND).rows[1].cells[0]
    assert cola.best == Estimate(60.0, None, 1)
    assert (cola.failed, cola.missing) == (0, 2)


def test_failed_and_missing_runs_are_counted_and_give_no_value():
    lora2, lora = summarize(GRID, FIND).rows
    assert [(cell.failed, cell.missing) for cell in lora2.cells] == [(0, 0), (1, 0), (1, 0)]
    assert [(cell.failed, cell.missing) for cell in lora.cells] == [(0, 2), (0, 3), (0, 3)]
    assert (lora.cells[1].best, lora.cells[1].last, lora.average.best) == (None, None, None)


def test_the_average_is_taken_seed_by_seed():
    average = summarize(GRID, FIND).rows[0].average
    # Seed 0: (70 + (90 + 80) / 2) / 2 = 77.5; seed 1: (72 + (92 + 84) / 2) / 2 = 80; seed 2 failed.
    same(average.best, 78.75, 2.5 / SQRT2, 2)
    # (69 + 37.5) / 2 = 53.25 and (71 + 37.5) / 2 = 54.25.
    same(average.last, 53.75, 1 / SQRT2, 2)


def test_the_difference_is_best_minus_paper():
    row = summarize(GRID, FIND).rows[0]
    assert row.cells[0].paper == 70.63
    assert row.cells[0].difference == pytest.approx(72 - 70.63)
    # (70.63 + (90.19 + 90.38) / 2) / 2 = 80.4575.
    assert row.average.paper == pytest.approx(80.4575)
    assert row.average.difference == pytest.approx(78.75 - 80.4575)


def test_an_average_over_fewer_columns_is_not_set_beside_the_printed_one():
    table = summarize(GRID, FIND)
    assert table.rows[0].average.as_printed is None
    assert len([note for note in table.notes if "over more columns" in note]) == 1
    complete = only_paper("table1", TABLE1_COLUMNS)
    assert not [note for note in complete.notes if "over more columns" in note]


def test_a_row_that_the_paper_lacks_has_no_paper_numbers():
    row = summarize(GRID, FIND).rows[1]
    assert not row.has_paper
    assert {cell.paper for cell in row.cells} == {None}
    assert (row.average.paper, row.average.difference, row.parameters.paper) == (None, None, None)


def test_parameters_are_the_extent_over_runs_and_after_pruning_where_that_differs():
    lora2, lora = (row.parameters for row in summarize(GRID, FIND).rows)
    # CoLA's runs kept all 1200, MNLI's were pruned to 1000.
    assert (lora2.initial, lora2.final, lora2.paper) == ((1200, 1200), (1000, 1200), "0.17M")
    assert (lora.initial, lora.final, lora.paper) == ((1200, 1200), None, None)


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        # Both extents are 10 to 30; the run of 20 was pruned to 10 all the same.
        ((10, 10, 30), (10, 30)),
        ((10, 20, 30), None),
    ],
)
def test_a_pruned_run_shows_even_where_the_extents_agree(final, expected):
    counts = zip(LORA2.runs["cola"], (10, 20, 30), final, strict=True)
    find = by_run(
        *(
            finished(
                run, {}, {}, trainable_parameters={"adapter": start},
                final_parameters={"adapter": end},
            )
            for run, start, end in counts
        )
    )  # fmt: skip
    parameters = summarize(GRID, find).rows[0].parameters
    assert (parameters.initial, parameters.final) == ((10, 30), expected)


def test_runs_that_count_no_adapter_have_no_parameters():
    (run,) = runs("cola", seeds=1)
    find = by_run(finished(run, {}, {}, trainable_parameters={}, final_parameters={}))
    assert summarize(GRID, find).rows[0].parameters == Parameters(None, None, "0.17M")


def test_notes_are_the_grids_own_then_how_to_read_it_then_what_is_unfinished():
    notes = summarize(GRID, FIND).notes
    assert notes[0] == GRID.notes[0]
    assert notes[1].startswith("Cells: mean ± sample standard deviation over seeds")
    assert notes[2] == "Average: MNLI-m and MNLI-mm are averaged first, as in the paper."
    # MNLI's six runs are counted once, though two columns show them.
    assert notes[-1] == "Of 12 runs, 6 are finished, 1 failed and 5 are missing."


def test_a_complete_table_says_nothing_of_missing_runs():
    row = Row("LoRA²", "lora2", "k=1", {"cola": LORA2.runs["cola"]})
    table = summarize(Grid("own", "own", (COLA,), (row,)), FIND)
    assert not [note for note in table.notes if "missing" in note]


def test_a_finished_run_without_the_metric_is_missing_in_its_column():
    (run,) = runs("cola", seeds=1)
    row = Row("LoRA²", "lora2", "k=1", {"cola": (run,)})
    find = by_run(finished(run, {"accuracy": 0.5}, {"accuracy": 0.5}))
    cell = summarize(Grid("own", "own", (COLA,), (row,)), find).rows[0].cells[0]
    assert (cell.best, cell.failed, cell.missing) == (None, 0, 1)


def test_a_table_before_any_run_is_empty():
    table = summarize(GRID, by_run())
    assert all(cell.best is None for row in table.rows for cell in (*row.cells, row.average))
    assert table.rows[0].parameters.initial is None


# --- numbers as printed ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (89.06, "89.06"),
        (70.0, "70.00"),
        # 84.475 is a little less in binary; the sum of printed numbers is exactly that.
        (84.475, "84.48"),
        (337.9 / 4, "84.48"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_have_two_decimals(value, text):
    assert printed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.374, "+1.37"),
        (-0.255, "−0.26"),
        (0.0, "+0.00"),
        (-0.001, "+0.00"),
        (math.nan, "NaN"),
    ],
)
def test_differences_have_a_sign(value, text):
    assert signed(value) == text
