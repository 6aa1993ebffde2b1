"""Presets: which runs the tables are made of, and that those of `small` stay the same runs."""

import pytest

from experiment_case import TABLE1_COLUMNS
from lora2.commands.reproduce import ReproduceArguments
from lora2.data.public.glue import GLUE_TASKS, TRAIN_ROWS
from lora2.errors import UserError
from lora2.lab.experiments.presets.minilm import MINILM
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.small_settings import SETTINGS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.presets.task_suite import TUNING_SEED
from lora2.lab.experiments.running.execution import Place, settings_of
from lora2.lab.experiments.tables.paper_numbers import paper_rows
from lora2.lab.experiments.tables.summary import summarize
from lora2.lab.experiments.tuning import Choice
from lora2.mathematics.orthogonality import ORTHOGONALITY_TERMS
from lora2.training.methods.registry import METHODS

PAPER = PRESETS["paper"]
ALL = [(preset, table) for preset in PRESETS.values() for table in preset.tables]
IDS = [f"{preset.name}-{table}" for preset, table in ALL]


def paper(table, model=PAPER.model, seeds=(0,)):
    return PAPER.grid(TableRequest(table, model, seeds))


def options(table, row, task):
    """The options of a row of the paper's preset by its key in the paper."""
    (found,) = [each for each in paper(table).rows if each.paper == row]
    (run,) = found.runs[task]
    return run.options


def items(**expected):
    return expected.items()


# --- every preset ---


@pytest.mark.parametrize(("preset", "table"), ALL, ids=IDS)
def test_every_table_has_runs_in_every_cell(preset, table):
    grid = preset.grid(TableRequest(table, preset.model, tuple(range(preset.seeds))))
    assert grid.name == table
    assert grid.notes
    for row in grid.rows:
        assert row.method in METHODS
        for column in grid.columns:
            assert [run.seed for run in row.runs[column.task]] == list(range(preset.seeds))
    # Without a record for any run, but with the paper's rows found by their keys.
    assert summarize(grid, lambda run: None).rows


@pytest.mark.parametrize(("preset", "table"), ALL, ids=IDS)
def test_options_are_those_of_train(preset, table, tmp_path):
    for run in preset.grid(TableRequest(table, preset.model, (0,))).descriptions():
        settings = settings_of(run, Place(tmp_path)).to_options()
        for name, value in run.options.items():
            assert settings[name] == value


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_more_seeds_are_more_of_the_same_runs(preset):
    requests = (TableRequest(preset.tables[0], preset.model, tuple(range(n))) for n in (1, 2))
    few, many = (list(preset.grid(request).descriptions()) for request in requests)
    assert set(few) < set(many)
    assert len(set(many)) == 2 * len(set(few))


@pytest.mark.parametrize("name", ["small", "paper"])
def test_the_figure_is_drawn_from_runs_of_table_1(name):
    preset = PRESETS[name]
    figure, table = (
        set(preset.grid(TableRequest(name, preset.model, (0, 1))).descriptions())
        for name in ("figure3", "table1")
    )
    assert figure < table


# --- the paper's ---


def test_table_1_has_the_papers_rows_and_columns():
    grid = paper("table1")
    assert [row.paper for row in grid.rows] == list(paper_rows("table1"))
    ours, theirs = (
        [(column.name, column.task, column.metric, column.pair) for column in columns]
        for columns in (grid.columns, TABLE1_COLUMNS)
    )
    assert ours == theirs


@pytest.mark.parametrize("table", ["table3", "table4"])
def test_other_tables_have_the_papers_rows_and_columns(table):
    grid, theirs = paper(table), paper_rows(table)
    assert [row.paper for row in grid.rows] == list(theirs)
    assert all({column.name for column in grid.columns} == set(r.values) for r in theirs.values())


def test_mnli_of_table_3_is_the_mismatched_set():
    (column,) = [column for column in paper("table3").columns if column.task == "mnli"]
    assert column.metric == "mismatched_accuracy"
    in_table1 = paper_rows("table1")["lora2 k=1"].values
    assert paper_rows("table3")["all"].values["mnli_acc"] == in_table1["mnli_mm_acc"]


def test_metrics_are_those_of_the_tasks():
    for column in paper("table1").columns:
        task = GLUE_TASKS[column.task]
        sets = [name for name, _ in task.validation_files]
        keys = [
            f"{name}_{each}" if len(sets) > 1 else each for name in sets for each in task.metrics
        ]
        assert column.metric in keys


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "cola",
            items(
                learning_rate=8e-4, num_train_epochs=25, init_r=4, target_r=3, lora_alpha=32,
                orth_reg_weight=0.1, tinit=800, tfinal=3500, deltaT=10, beta1=0.85, beta2=0.85,
                max_length=64, per_device_train_batch_size=32, warmup_steps=100,
                classifier_dropout=0.1, weight_decay=0, eval_strategy="steps", eval_steps=100,
                orthogonality="penalty", orthogonality_terms="all",
            ),
        ),
        ("qqp", items(num_train_epochs=20, init_r=8, target_r=3, lora_alpha=16, tfinal=25000)),
        ("mrpc", items(warmup_steps=0.1, target_r=1, deltaT=1, classifier_dropout=0)),
        ("qnli", items(learning_rate=1.2e-3, max_length=512, warmup_steps=500)),
        ("stsb", items(learning_rate=2.2e-3, orth_reg_weight=0.3, weight_decay=0.1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("k", [1, 8])
def test_lora2_has_the_values_of_its_authors_scripts(k, task, expected):
    found = options("table1", f"lora2 k={k}", task)
    assert expected | {("k", k)} <= found.items()


@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        ("adalora r=8", "mnli", items(init_r=12, target_r=8, lora_alpha=16, tfinal=50000)),
        ("adalora r=2", "rte", items(init_r=3, target_r=2, learning_rate=1.2e-3, tinit=600)),
        ("lora r=1", "qqp", items(k=1, lora_alpha=16, learning_rate=5e-4, num_train_epochs=5)),
        ("sora r=8", "sst2", items(k=8, threshold=3e-4, learning_rate=8e-4, max_length=128)),
        ("bitfit", "rte", items(learning_rate=1e-3, classifier_dropout=0.2, warmup_steps=200)),
        ("full fine-tuning", "stsb", items(learning_rate=2e-5, weight_decay=0.1, eval_steps=100)),
    ],
)
def test_other_methods_have_adaloras_scripts_and_a_rate_of_their_own(row, task, expected):
    assert expected <= options("table1", row, task).items()


def test_what_a_task_is_trained_with_is_the_same_for_all_methods():
    for task in TRAIN_ROWS:
        of_task = {
            tuple(row.runs[task][0].options[name] for name in (
                "max_length", "per_device_train_batch_size", "warmup_steps", "classifier_dropout",
                "weight_decay", "eval_steps",
            ))
            for row in paper("table1").rows
        }  # fmt: skip
        assert len(of_task) == 1


@pytest.mark.parametrize("terms", ORTHOGONALITY_TERMS)
def test_the_rows_of_table_3_are_the_choices_of_the_penalty(terms):
    assert options("table3", terms, "rte")["orthogonality_terms"] == terms


def test_tables_share_the_runs_that_they_have_in_common():
    of_table1 = set(paper("table1").descriptions())
    for table in ("table3", "table4"):
        *_, last = paper(table).rows
        assert {run for runs in last.runs.values() for run in runs} < of_table1


def test_the_matrices_of_table_4_have_the_names_of_the_model():
    def targets(model):
        first, *_ = paper("table4", model).rows
        return first.runs["rte"][0].options["target_modules"]

    assert targets("microsoft/deberta-v3-base") == [r"(.*\.)?(query_proj|key_proj)"]
    assert targets("FacebookAI/roberta-large") == [r"(.*\.)?(query|key)"]


def test_another_model_has_no_numbers_in_the_paper():
    grid = paper("table1", "roberta-large")
    assert {run.model for run in grid.descriptions()} == {"FacebookAI/roberta-large"}
    assert {row.paper for row in grid.rows} == {None}
    assert "DeBERTaV3-base" in grid.notes[-1]


def test_a_folder_is_taken_with_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deberta-v3-base").mkdir()
    grid = paper("table1", "deberta-v3-base")
    assert {run.model for run in grid.descriptions()} == {str(tmp_path / "deberta-v3-base")}
    assert grid.rows[-1].paper == "lora2 k=8"


def test_notes_say_what_is_not_the_authors():
    seeds, *notes = paper("table1", seeds=(0, 1)).notes
    assert seeds.startswith("Seeds 0, 1; the authors ran one seed a task (6, for RTE 4)")
    assert any("publish no hyperparameters" in note for note in notes)


# --- small ---


@pytest.mark.parametrize(
    ("setting", "task", "seed", "identity"),
    [
        ("lora2-k1", "agreement", 0, "759345e5358c"),
        # A run of the search for learning rates.
        ("lora2-k1", "agreement", TUNING_SEED, "a0fe48274c17"),
        ("adalora-r8", "stsb", 1, "e2b1a92c67d4"),
    ],
)
def test_runs_of_small_keep_their_identities(setting, task, seed, identity):
    """Records bear them: whatever changes one makes the records useless."""
    (experiment,) = [
        each
        for each in MINILM.experiments(SETTINGS)
        if (each.setting.key, each.task) == (setting, task)
    ]  # fmt: skip
    assert experiment.run(1e-3, seed).identity == identity


def test_small_takes_the_learning_rates_that_tuning_chose():
    choices = {"cola/lora2-k1": Choice("cola/lora2-k1", 3e-3, ())}
    grid = PRESETS["small"].grid(TableRequest("figure3", MINILM.model, (0,), choices))
    first = grid.rows[0].runs
    assert first["cola"][0].options["learning_rate"] == 3e-3
    assert first["stsb"][0].options["learning_rate"] == 1e-3
    assert "cola/lora2-k1" not in grid.notes[-1]
    assert "stsb/lora2-k1" in grid.notes[-1]


@pytest.mark.parametrize(
    ("table", "label", "in_table1"),
    [
        ("table3", "all", "LoRA², literal k=1"),
        ("table4", "all six", "LoRA² k=1"),
        ("ablations", "as in table 1", "LoRA² k=1"),
    ],
)
def test_a_row_of_small_that_changes_nothing_is_the_runs_of_table_1(table, label, in_table1):
    requests = (TableRequest(name, MINILM.model, (0, 1)) for name in (table, "table1"))
    tables = map(PRESETS["small"].grid, requests)
    rows, first = ({row.name: row.runs for row in grid.rows} for grid in tables)
    (runs,) = [runs for name, runs in rows.items() if name == f"{label} k=1"]
    assert runs == {task: first[in_table1][task] for task in runs}


def test_rates_are_multiples_of_the_usual_one_whatever_was_tuned():
    choices = {"cola/lora2-k8-same-head": Choice("cola/lora2-k8-same-head", 3e-3, ())}
    grid = PRESETS["small"].grid(TableRequest("rates", MINILM.model, (0,), choices))
    rates = {row.name: row.runs["cola"][0].options["learning_rate"] for row in grid.rows}
    assert rates["LoRA² k=8, a third of the usual rate"] == 3.33e-4
    assert rates["LoRA² k=8, the usual rate"] == 1e-3
    assert rates["LoRA² k=8, three times"] == 3e-3
    assert rates["LoRA r=1, the usual rate"] == 5e-4
    assert {run.options["head_learning_rate"] for run in grid.descriptions()} == {1e-3}
    assert len(grid.rows) == 3 * 8
    assert not [note for note in grid.notes if "Not tuned" in note]


def test_rates_of_the_language_model_show_the_runs_of_its_table_at_the_usual_one():
    preset = PRESETS["language"]
    tables = [preset.grid(TableRequest(name, preset.model, (0,))) for name in ("language", "rates")]
    at_usual, rates = ({row.name: row.runs for row in grid.rows} for grid in tables)
    for name in ("LoRA r=8", "MiSS r=16", "LoRA² k=8"):
        assert rates[f"{name}, the usual rate"] == at_usual[name]
    tried = {name: runs["snips"][0].options["learning_rate"] for name, runs in rates.items()}
    assert tried["MiSS r=16, a third of the usual rate"] == 1.67e-4
    assert tried["LoRA² k=8, three times"] == 3e-3
    assert len(rates) == 3 * 3


def test_table_3_of_small_has_the_tasks_that_its_method_learns():
    grid = PRESETS["small"].grid(TableRequest("table3", MINILM.model, (0,)))
    assert [column.task for column in grid.columns] == ["cola", "stsb"]
    assert {tuple(row.runs) for row in grid.rows} == {("cola", "stsb")}


def test_small_is_of_one_model():
    with pytest.raises(UserError, match="model: the preset small is of minilm, not of bert"):
        PRESETS["small"].grid(TableRequest("table1", "bert", (0,)))


# --- what the command asks for ---


def test_unless_it_is_given_model_and_seeds_are_the_presets(tmp_path):
    request = ReproduceArguments(preset="paper").request("table3", tmp_path)
    assert (request.table, request.model, request.seeds) == ("table3", PAPER.model, (0, 1, 2, 3, 4))
    assert ReproduceArguments().request("table1", tmp_path).seeds == (0, 1, 2)
    other = ReproduceArguments(preset="paper", model="bert", seeds=2).request("table1", tmp_path)
    assert (other.model, other.seeds) == ("bert", (0, 1))


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({}, "tables"),
        ({"model": PAPER.model}, "tables"),
        ({"model": "deberta-v3-base"}, "tables"),
        ({"model": "FacebookAI/roberta-large"}, "tables-roberta-large"),
        ({"preset": "leaderboard"}, "tables-leaderboard"),
    ],
)
def test_tables_of_another_model_or_preset_do_not_replace_those_of_the_presets(
    options, folder, tmp_path
):
    asked = {"preset": "paper", **options}
    assert ReproduceArguments(**asked).tables(tmp_path) == tmp_path / folder
    chosen = ReproduceArguments(output_dir=str(tmp_path / "here"), **asked)
    assert chosen.tables(tmp_path) == tmp_path / "here"
