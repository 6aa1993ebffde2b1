"""`lora2 reproduce TABLE --dry-run`: every run of a table, without data, weights or a trace."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from command_line import lora2, refused
from experiment_case import failed, finished
from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.dry_run import plan
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.rendering.plan import WIDTH, listing
from lora2.lab.experiments.tables.grid import Column, Grid, Row
from run_case import OPTIONS, STEPS, tiny_run

pytestmark = pytest.mark.slow

PAPER = PRESETS["paper"]
WHOLE = ("AdaLoRA r=8", "LoRA² k=1", "LoRA² k=8")
# Batches of 32, the last one smaller: steps an epoch.
EPOCHS = {
    "cola": 268, "sst2": 2105, "mrpc": 115, "qqp": 11371, "stsb": 180, "mnli": 12272,
    "qnli": 3274, "rte": 78,
}  # fmt: skip


def none(run):
    return None


def planned(table, model=PAPER.model):
    return {row.name: row for row in plan(PAPER.grid(TableRequest(table, model, (0,))), none)}


@pytest.fixture(scope="module")
def table1():
    """Three rows on all tasks, the others on one: each cell is a model."""
    whole = PAPER.grid(TableRequest("table1", PAPER.model, (0,)))
    rows = [
        row if row.name in WHOLE else replace(row, runs={"rte": row.runs["rte"]})
        for row in whole.rows
    ]
    return {row.name: row for row in plan(replace(whole, rows=tuple(rows)), none)}


@pytest.fixture
def tiny_grid(tiny_model):
    """Two rows on agreement, three seeds each."""
    rows = tuple(
        Row(method, method, "", {"agreement": runs})
        for method in ("lora2", "lora")
        if (runs := tuple(tiny_run(tiny_model, method, seed) for seed in range(3)))
    )
    return Grid("tiny", "tiny", (Column("acc", "acc", "agreement", "accuracy"),), rows)


def cells(row):
    return {cell.task: cell for cell in row.cells}


# --- what is planned ---


def test_steps_are_those_of_the_authors_scripts(table1):
    # AdaLoRA's scripts print them; they follow from rows, batch and epochs.
    assert {task: cell.steps for task, cell in cells(table1["AdaLoRA r=8"]).items()} == {
        "cola": 6700, "sst2": 50520, "mrpc": 3450, "qqp": 56855, "stsb": 4500, "mnli": 85904,
        "qnli": 16370, "rte": 3900,
    }  # fmt: skip
    for row in table1.values():
        for task, cell in cells(row).items():
            assert cell.steps == cell.options["num_train_epochs"] * EPOCHS[task]


@pytest.mark.parametrize(
    ("row", "task", "parameters", "paper"),
    [
        # 72 matrices of 768 and 3072: k (d_in + d_out) of them all is 165,888 k.
        ("LoRA² k=1", "mrpc", 165_888 + 72 * (2 * 8 + 8), "0.17M"),
        ("LoRA² k=1", "cola", 165_888 + 72 * (2 * 4 + 4), "0.17M"),
        ("LoRA² k=8", "mnli", 8 * 165_888 + 72 * (2 * 8 * 8 + 8), "1.33M"),
        ("LoRA r=1", "rte", 165_888, "0.17M"),
        ("LoRA r=8", "rte", 8 * 165_888, "1.33M"),
        ("SoRA r=1", "rte", 165_888 + 72, "0.12M"),
        ("SoRA r=8", "rte", 8 * 165_888 + 72 * 8, "0.91M"),
        ("AdaLoRA r=2", "rte", 3 * 165_888 + 72 * 3, "0.32M"),
        ("AdaLoRA r=8", "rte", 12 * 165_888 + 72 * 12, "1.27M"),
        ("BitFit", "rte", 103_680, "0.1M"),
        ("full fine-tuning", "rte", 184_422_144, "184M"),
    ],
)
def test_parameters_are_counted_and_stand_beside_the_papers(table1, row, task, parameters, paper):
    assert cells(table1[row])[task].parameters == parameters
    assert table1[row].paper == paper
    assert table1[row].counted_after_pruning == row.startswith(("SoRA", "AdaLoRA"))


def test_the_papers_counts_of_lora2_are_met(table1):
    assert cells(table1["LoRA² k=1"])["mrpc"].parameters == 167_616
    assert cells(table1["LoRA² k=8"])["mrpc"].parameters == 1_336_896


def test_table_4_counts_the_chosen_matrices():
    found = planned("table4")
    assert {name: cells(row)["mrpc"].parameters for name, row in found.items()} == {
        "Q,K k=1": 37_440, "Q,V k=1": 37_440, "Q,K,V k=1": 56_160, "all six k=1": 167_616,
    }  # fmt: skip
    assert [row.paper for row in found.values()] == ["37.4k", "37.4k", "56.2k", "167.6k"]
    # Four singular values in place of eight: 24 matrices with 2 · 4 + 4 fewer.
    assert cells(found["Q,K k=1"])["cola"].parameters == 37_440 - 24 * 12


def test_all_schedules_of_table_3_fit_too():
    assert all(cell.steps for row in planned("table3").values() for cell in row.cells)


def test_roberta_large_is_known_without_a_file():
    whole = PAPER.grid(TableRequest("figure3", "roberta-large", (0,)))
    (row,) = (row for row in whole.rows if row.name == "LoRA² k=8")
    (found,) = plan(replace(whole, rows=(replace(row, runs={"mrpc": row.runs["mrpc"]}),)), none)
    # 144 matrices of 1024 and 4096.
    assert cells(found)["mrpc"].parameters == 8 * 442_368 + 144 * (2 * 8 * 8 + 8)
    assert found.paper is None


def test_records_are_counted(tiny_grid):
    first, second, _ = tiny_grid.rows[0].runs["agreement"]
    records = {first: finished(first, {}, {}), second: failed(second)}
    lora2_row, lora_row = plan(tiny_grid, records.get)
    assert [(c.finished, c.failed) for c in lora2_row.cells] == [(1, 1)]
    assert [(c.finished, c.failed) for c in lora_row.cells] == [(0, 0)]
    assert lora2_row.cells[0].steps == STEPS
    assert lora2_row.cells[0].rows == OPTIONS["train_sentences"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tinit": 2000, "tfinal": 2000}, "take 2000 . 2000 of the 3900 optimizer steps"),
        ({"classifier_dropout": 2}, "classifier_dropout=2 must be"),
        ({"learning_rat": 1}, "learning_rat is no option"),
    ],
)
def test_a_run_that_could_not_be_made_is_named(changed, reason):
    (run,) = PAPER.grid(TableRequest("table1", PAPER.model, (0,))).rows[-1].runs["rte"]
    bad = RunDescription(run.model, run.task, run.method, {**run.options, **changed})
    column = Column("rte_acc", "RTE", "rte", "accuracy")
    grid = Grid("any", "any", (column,), (Row("LoRA²", "lora2", "", {"rte": (bad,)}),))
    with pytest.raises(UserError, match=f"{bad.name}: .*{reason}"):
        plan(grid, none)


# --- the command ---


def listed(capsys, *arguments):
    assert lora2("reproduce", *arguments, "--dry-run") == 0
    return capsys.readouterr().out


def lines_of(text, row, task):
    """The line of a row and task, and those that it is folded into."""
    lines = text[text.index(f"\n{row}\n") :].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{task} "))
    end = next(
        (index for index in range(start + 1, len(lines)) if not lines[index].startswith(" ")),
        len(lines),
    )
    return " ".join(" ".join(lines[start:end]).split())


def test_the_listing_is_complete_in_a_hundred_columns_and_leaves_no_trace(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    text = listed(capsys, "table4", "--preset", "paper")
    assert list(tmp_path.iterdir()) == []
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "80 runs, 0 with a finished record" in text
    assert lines_of(text, "Q,K k=1", "cola") == (
        "cola 0–4 0 of 5 6,700 25 0.0008 37,152 37.4k init_r=4 target_r=3 orth_reg_weight=0.1 "
        "tinit=800 tfinal=3500 deltaT=10"
    )
    assert r"target_modules=(.*\.)?(query_proj|key_proj)" in text
    assert "rte 2,490 max_length=320 warmup_steps=200 classifier_dropout=0.2" in " ".join(
        text.split()
    )


def test_the_listing_counts_records(tmp_path, capsys):
    records = RecordFolder(tmp_path)
    grid = PAPER.grid(TableRequest("table4", PAPER.model, (0, 1, 2)))
    good, bad, _ = grid.rows[1].runs["rte"]
    records.write(finished(good, {}, {}))
    records.write(failed(bad))
    text = listed(capsys, "table4", "--preset=paper", "--seeds=3", f"--records={tmp_path}")
    assert "48 runs, 1 with a finished record" in text
    assert lines_of(text, "Q,V k=1", "rte").startswith("rte 0–2 1 of 3, 1 failed 3,900 50 0.0012")
    assert lines_of(text, "Q,K k=1", "rte").startswith("rte 0–2 0 of 3 3,900 50 0.0012")


def test_the_listing_says_what_the_paper_counts_after_pruning(table1):
    whole = PAPER.grid(TableRequest("table1", PAPER.model, (0,)))
    rows = tuple(row for row in whole.rows if row.name in ("LoRA r=1", "SoRA r=1"))
    console = Console(width=WIDTH, record=True, file=StringIO())
    for part in listing(replace(whole, rows=rows), [table1[row.name] for row in rows]):
        console.print(part)
    text = console.export_text()
    assert lines_of(text, "SoRA r=1", "rte") == "rte 0 0 of 1 3,900 50 0.0008 165,960 0.12M"
    assert "The paper's 0.12M is counted after pruning." in text
    assert "The paper's 0.17M" not in text
    assert "All tasks: k=1 lora_alpha=16 threshold=0.0003" in text
    assert "the authors ran one seed" in text


def test_any_model_of_a_folder_can_be_planned(tiny_model, tmp_path, capsys):
    text = listed(
        capsys, "table4", "--preset=paper", f"--model={tiny_model}", f"--records={tmp_path}"
    )
    # Two layers of two matrices, 16 × 16: 4 (32 + 2 · 8 + 8).
    assert " 224 " in lines_of(text, "Q,K k=1", "mrpc")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["table9"], "'table9' is none of table1"),
        (["table2"], "table2 has no runs"),
        (["ablations", "--preset=paper"], "of the preset paper"),
        (["table1", "--preset=large"], "preset: 'large' is none of small, paper"),
        (["table1", "--seeds=0"], "seeds=0"),
        (["table1", "--model=bert"], "the preset small is of minilm"),
        (["table1", "--preset=paper", "--model=./nowhere"], "nowhere does not exist"),
    ],
)
def test_what_is_invalid_is_refused(arguments, named, capsys):
    assert named in refused(capsys, "reproduce", *arguments, "--dry-run")
