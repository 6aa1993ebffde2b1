"""What commands print where a console is narrow, or standard output is no terminal."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.table import Table

from command_line import lora2, train
from experiment_case import finished
from lora2.lab.experiments.rendering.choices import choices_table
from lora2.lab.experiments.running.display import display
from lora2.lab.experiments.tuning import Choice
from lora2.reports.console import new_console
from lora2.reports.tables import kept_table, metrics_table, summary_table
from lora2.training.on_disk.summary import RunSummary
from narrow import check_figures, printed
from run_case import tiny_run

REACHED = {"best": {"accuracy": 0.8125, "epoch": 1.25}, "last": {"accuracy": 0.75}}
SUMMARY = RunSummary(
    task="agreement",
    main_metric="accuracy",
    method="adalora",
    before={"accuracy": 0.25},
    baseline={**REACHED, "parameters": 1_234_567},
    final_parameters={"adapter": 123_456_789, "head": 1_538},
    **REACHED,
)
DEBERTA = ("query_proj", "key_proj", "value_proj", "attention.output.dense", "intermediate.dense")
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TABLES = {
    "summary": summary_table(SUMMARY),
    "metrics": metrics_table({"accuracy": 0.5, "a_metric_of_a_long_name" * 4: 0.123456}),
    "kept": kept_table((*DEBERTA, "output.dense"), {"0": [8, 12, 16, 1, 0, 2], "11": [None] * 6}),
    "kept by a decoder": kept_table(LLAMA, {str(x): [128] * 7 for x in range(3)}),
    "learning rates": choices_table(
        [Choice("agreement/lora2-k8-penalty", 3.33e-4, ((1e-3, 0.5), (3.33e-4, 0.9), (3e-3, None)))]
    ),
}


@pytest.mark.parametrize("width", [100, 80, 60, 40, 25])
@pytest.mark.parametrize("name", TABLES)
def test_figures_are_never_cut(name, width):
    check_figures(TABLES[name], width)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_sixty_columns_is_still_a_table(name):
    assert "─" in printed(TABLES[name], 60)


def test_a_table_that_does_not_fit_names_each_cell():
    table = Table(title="reached")
    for name in ("", "best", "attention\noutput\ndense"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("LoRA²", "0.123456789012\n0.1–0.2", "1,234,567,890")
    assert printed(table, 39).splitlines() == [
        "reached",
        "LoRA²",
        "  best: 0.123456789012 0.1–0.2",
        "  attention.output.dense: 1,234,567,890",
    ]


def test_names_that_look_like_markup_are_printed_as_they_are():
    table = Table(title="[red]:tada:")
    table.add_column("[b]")
    table.add_row("runs/[/a]")
    text = printed(table, 60)
    assert all(name in text for name in ("[red]:tada:", "[b]", "runs/[/a]"))


def test_where_there_is_no_terminal_progress_is_one_line_a_run():
    console = new_console()
    console.file = StringIO()
    runs = [tiny_run(Path("model"), seed=seed) for seed in (0, 1)]
    with display(console, "trials", len(runs)) as shown:
        shown.entitle(runs[0], "agreement/lora2-k2 at learning rate 0.001")
        for run in runs:
            shown.step(run, 1, 8)
            metrics = {"accuracy": 0.5}
            shown.finish(finished(run, metrics, metrics, main_metric="accuracy", seconds=2.0))
    first, second = (run.identity for run in runs)
    assert console.file.getvalue().splitlines() == [
        f"agreement/lora2-k2 at learning rate 0.001 ({first}): "
        "accuracy best 0.5000, last 0.5000, 2 s",
        f"agreement lora2 seed 1 ({second}): accuracy best 0.5000, last 0.5000, 2 s",
    ]


# What transformers, datasets, PEFT and torch say of a training belongs to standard error.
_OURS = re.compile(
    r"Training|parameters at the (?:end|start)|saved in|lora2, epoch|agreement: accuracy"
    r"|Written to|[┌│└┏┃┡]"
)


def test_standard_output_holds_the_words_of_lora2_alone(tiny_model, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "60")
    # A name that would be markup, of a tag that was never opened.
    folder = tmp_path / "[/a]"
    assert train(tiny_model, folder) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if not _OURS.match(line)] == []
    assert [line.partition(":")[0] for line in lines if ", epoch " in line] == [
        "lora2, epoch 1, step 4",
        "lora2, epoch 2, step 8",
    ]
    assert lines[-1].startswith(f"Written to {folder} in")
    assert lora2("inspect", folder) == 0
    assert f"Drawn: {folder}" in capfd.readouterr().out
