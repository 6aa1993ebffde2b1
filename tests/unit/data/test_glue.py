"""The official GLUE layouts with their traps, written here as small files."""

import logging
from pathlib import Path

import pytest

from lora2.data.loading.classification import load_task
from lora2.data.public.glue import GLUE_TASKS
from lora2.data.tasks.labelled_task import LabelledTextTask
from lora2.errors import UserError
from lora2.training.scores.metrics import METRICS

BYTE_ORDER_MARK = "\ufeff"
MRPC_ROWS = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tA cat sat.\tA cat was sitting.\n"

# task -> files of its folder, with every trap of the official ones.
FILES = {
    "cola": {
        "train.tsv": 'b1\t1\t\t"Run," he said.\nb1\t0\t*\tHim "ran.\nb2\t1\t\tNA\n',
        "dev.tsv": "b3\t0\t*\tCats the sit.\n",
    },
    "sst2": {
        "train.tsv": "sentence\tlabel\na fine film \t1\n",
        "dev.tsv": "sentence\tlabel\na dull film \t0\n",
    },
    "mrpc": {
        "train.tsv": BYTE_ORDER_MARK + MRPC_ROWS.replace("\n", "\r\n"),
        "dev.tsv": MRPC_ROWS.replace("1\t7", "0\t7"),
    },
    "qqp": {
        "train.tsv": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            "0\t1\t2\tWhy rain?\tWhy snow?\t0\n"
            "1\t3\t4\tWhat is a line\n"
            "break?\tWhat breaks a line?\t1\n"
            "2\t5\t6\tWho ran?\tWho was running?\t1\n"
        ),
        "dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n3\t7\t8\tWhy?\tWhy?\t1\n",
    },
    "stsb": {
        "train.tsv": "index\tsentence1\tsentence2\tscore\n0\tA dog.\tA hound.\t4.250\n",
        "dev.tsv": "index\tsentence1\tsentence2\tscore\n0\tA dog.\tA car.\t0\n",
    },
    "mnli": {
        "train.tsv": (
            "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
            "0\tIt rains.\tIt is wet.\tneutral\tentailment\n"
            "1\tIt rains.\tIt may be.\tneutral\t-\n"
            "2\tIt rains.\tIt is dry.\tneutral\tcontradiction\n"
        ),
        # The development files have more annotators' columns than the training file.
        "dev_matched.tsv": (
            "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n"
            "0\tShe left.\tShe was sad.\tneutral\tneutral\tneutral\n"
        ),
        "dev_mismatched.tsv": (
            "index\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n"
            "0\tHe left.\tHe went.\tneutral\tneutral\tentailment\n"
            "1\tHe left.\tHe slept.\tneutral\tentailment\t-\n"
            "2\tHe left.\tHe stayed.\tneutral\tneutral\tcontradiction\n"
        ),
    },
    "qnli": {
        "train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tShe did.\tentailment\n",
        "dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhen?\tShe did.\tnot_entailment\n",
    },
    "rte": {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt is.\tIt was.\tnot_entailment\n",
        "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt is.\tIt is.\tentailment\n",
    },
}

# task -> rows of the training set, rows of each validation set, as (texts..., label).
EXPECTED = {
    "cola": (
        [('"Run," he said.', 1), ('Him "ran.', 0), ("NA", 1)],
        {"validation": [("Cats the sit.", 0)]},
    ),
    "sst2": ([("a fine film ", 1)], {"validation": [("a dull film ", 0)]}),
    "mrpc": (
        [("A cat sat.", "A cat was sitting.", 1)],
        {"validation": [("A cat sat.", "A cat was sitting.", 0)]},
    ),
    "qqp": (
        [("Why rain?", "Why snow?", 0), ("Who ran?", "Who was running?", 1)],
        {"validation": [("Why?", "Why?", 1)]},
    ),
    "stsb": ([("A dog.", "A hound.", 4.25)], {"validation": [("A dog.", "A car.", 0.0)]}),
    "mnli": (
        [("It rains.", "It is wet.", 0), ("It rains.", "It is dry.", 2)],
        {
            "matched": [("She left.", "She was sad.", 1)],
            "mismatched": [("He left.", "He went.", 0), ("He left.", "He stayed.", 2)],
        },
    ),
    "qnli": ([("Who?", "She did.", 0)], {"validation": [("When?", "She did.", 1)]}),
    "rte": ([("It is.", "It was.", 1)], {"validation": [("It is.", "It is.", 0)]}),
}


def write_task(root: Path, task: str, **replaced: str) -> Path:
    """Write the files of one task; `replaced` maps a file's stem to another content."""
    folder = root / GLUE_TASKS[task].folder
    folder.mkdir(parents=True)
    for name, content in FILES[task].items():
        content = replaced.get(name.removesuffix(".tsv"), content)
        (folder / name).write_bytes(content.encode())
    return folder


def rows(dataset) -> list[tuple]:
    return [tuple(row.values()) for row in dataset]


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_official_files_give_exactly_their_rows(tmp_path, task):
    write_task(tmp_path, task)
    data = load_task(task, data_dir=tmp_path)
    train, validation = EXPECTED[task]
    assert rows(data.train) == train
    assert {name: rows(dataset) for name, dataset in data.validation.items()} == validation


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_the_task_folder_itself_is_accepted(tmp_path, task):
    folder = write_task(tmp_path, task)
    assert rows(load_task(task, data_dir=folder).train) == EXPECTED[task][0]


def test_mrpc_reads_the_files_of_the_paraphrase_corpus(tmp_path):
    folder = write_task(tmp_path, "mrpc")
    (folder / "train.tsv").rename(folder / "msr_paraphrase_train.txt")
    (folder / "dev.tsv").rename(folder / "msr_paraphrase_test.txt")
    data = load_task("mrpc", data_dir=tmp_path)
    assert rows(data.train) == EXPECTED["mrpc"][0]
    assert rows(data.validation["validation"]) == EXPECTED["mrpc"][1]["validation"]


def test_broken_qqp_lines_are_counted_in_the_log(tmp_path, caplog):
    write_task(tmp_path, "qqp")
    with caplog.at_level(logging.WARNING):
        load_task("qqp", data_dir=tmp_path)
    assert "Skipped 2 broken lines" in caplog.text


def test_unlabelled_mnli_rows_are_counted_in_the_log(tmp_path, caplog):
    write_task(tmp_path, "mnli")
    with caplog.at_level(logging.INFO):
        load_task("mnli", data_dir=tmp_path)
    assert caplog.text.count("Skipped 1 lines without a label") == 2


def test_unusual_line_separators_stay_inside_a_text(tmp_path):
    text = "one\u2028two\x85three\rfour"
    write_task(tmp_path, "cola", train=f"b1\t1\t\t{text}\n")
    assert rows(load_task("cola", data_dir=tmp_path).train) == [(text, 1)]


@pytest.mark.parametrize(
    ("task", "train", "message"),
    [
        ("rte", "index\tsentence1\tlabel\n0\tIt is.\tentailment\n", "no column 'sentence2'"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\tIt is.\n", "2 columns in line 2"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tmaybe\n", "label 'maybe' in line"),
        ("stsb", "sentence1\tsentence2\tscore\nA.\tB.\tgood\n", "'good' in line 2 where a number"),
        ("stsb", "sentence1\tsentence2\tscore\nA.\tB.\tnan\n", "'nan' in line 2 where a number"),
        ("cola", "", "no labelled row"),
        ("rte", "", "names nothing"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path, task, train, message):
    write_task(tmp_path, task, train=train)
    with pytest.raises(UserError, match=message):
        load_task(task, data_dir=tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    folder = write_task(tmp_path, "cola")
    (folder / "dev.tsv").write_bytes("b1\t1\t\tCaf\u00e9.\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"dev\.tsv is not UTF-8"):
        load_task("cola", data_dir=tmp_path)


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load_task("cola", data_dir=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no CoLA/train\.tsv"):
        load_task("cola", data_dir=tmp_path)
    (write_task(tmp_path, "cola") / "dev.tsv").unlink()
    with pytest.raises(UserError, match=r"lacks the file dev\.tsv"):
        load_task("cola", data_dir=tmp_path)


HUB_CLASSES = {
    "cola": ["unacceptable", "acceptable"],
    "stsb": None,
    "mnli": ["entailment", "neutral", "contradiction"],
}


@pytest.mark.parametrize("task", HUB_CLASSES)
def test_the_hub_gives_the_same_task_as_the_files(tmp_path, monkeypatch, task):
    import datasets

    definition = GLUE_TASKS[task]
    train, validation = EXPECTED[task]
    sets = {"train": train} | {split: validation[name] for name, split in definition.hub_splits}
    asked = []

    def load_dataset(*arguments):
        asked.append(arguments)
        columns = (*definition.names, "label")
        return {
            split: datasets.Dataset.from_list(
                [dict(zip(columns, row, strict=True)) for row in set_]
            )
            for split, set_ in sets.items()
        }

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    write_task(tmp_path, task)
    from_hub, from_files = load_task(task), load_task(task, data_dir=tmp_path)
    assert asked == [("nyu-mll/glue", task)]
    assert described(from_hub) == described(from_files)


def described(data: LabelledTextTask) -> dict:
    sets = {"train": data.train, **data.validation}
    plain = {name: (rows(dataset), dataset.features) for name, dataset in sets.items()}
    return {**vars(data), "train": None, "validation": plain}


def test_every_task_has_known_metrics():
    assert {metric for task in GLUE_TASKS.values() for metric in task.metrics} <= set(METRICS)


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("cola", ("matthews_correlation",)),
        ("mrpc", ("accuracy", "f1")),
        ("qqp", ("accuracy", "f1")),
        ("stsb", ("pearson", "spearman")),
        ("mnli", ("accuracy",)),
    ],
)
def test_the_first_metric_is_the_main_one(tmp_path, task, metrics):
    write_task(tmp_path, task)
    data = load_task(task, data_dir=tmp_path)
    assert (data.metrics, data.main_metric) == (metrics, metrics[0])
