"""The eight GLUE tasks as data: how each is stored in its official folder and on the hub.

Source: Wang et al. 2018, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding".
"""

from dataclasses import dataclass

from lora2.data.tasks.labelled_task import Kind


@dataclass(frozen=True)
class GlueTask:
    """How one task is stored in its folder and on the hub.

    Attributes:
        folder: name of its folder in the GLUE distribution.
        columns: the text columns of the TSV files, by name, or by position without a header.
        label: the label column, likewise.
        names: the text columns on the hub; they name the columns of LabelledTextTask.
        label_names: of the classes, in the hub's order; () for regression.
        labels: how the files spell the classes; the names themselves unless given.
        metrics: the first is the main metric.
        train_files: alternative names of the training file.
        validation_files: for each validation set, alternative file names.
        hub_splits: for each validation set, its split on the hub.
        has_header: whether the first line names the columns.
        skips_short_lines: whether broken lines are known to occur in the official files.
    """

    folder: str
    columns: tuple[str | int, ...]
    label: str | int
    names: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ("train.tsv",)
    validation_files: tuple[tuple[str, tuple[str, ...]], ...] = (("validation", ("dev.tsv",)),)
    hub_splits: tuple[tuple[str, str], ...] = (("validation", "validation"),)
    has_header: bool = True
    skips_short_lines: bool = False

    @property
    def kind(self) -> Kind:
        """Whether the labels are classes or a scale."""
        return "classification" if self.label_names else "regression"


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_BINARY = ("0", "1")

GLUE_TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", (3,), 1, ("sentence",), ("unacceptable", "acceptable"),
        ("matthews_correlation",), labels=_BINARY, has_header=False,
    ),
    "sst2": GlueTask(
        "SST-2", ("sentence",), "label", ("sentence",), ("negative", "positive"),
        ("accuracy",), labels=_BINARY,
    ),
    "mrpc": GlueTask(
        "MRPC", ("#1 String", "#2 String"), "Quality", _PAIR, ("not_equivalent", "equivalent"),
        ("accuracy", "f1"), labels=_BINARY,
        # The corpus itself comes as msr_paraphrase_*.txt. It has no development set (GLUE's was
        # cut from its training file), so its test file serves as validation data.
        train_files=("train.tsv", "msr_paraphrase_train.txt"),
        validation_files=(("validation", ("dev.tsv", "msr_paraphrase_test.txt")),),
    ),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), "is_duplicate", ("question1", "question2"),
        ("not_duplicate", "duplicate"), ("accuracy", "f1"), labels=_BINARY, skips_short_lines=True,
    ),
    "stsb": GlueTask("STS-B", _PAIR, "score", _PAIR, (), ("pearson", "spearman")),
    "mnli": GlueTask(
        "MNLI", _PAIR, "gold_label", ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"), ("accuracy",),
        validation_files=(
            ("matched", ("dev_matched.tsv",)),
            ("mismatched", ("dev_mismatched.tsv",)),
        ),
        hub_splits=(
            ("matched", "validation_matched"),
            ("mismatched", "validation_mismatched"),
        ),
    ),
    "qnli": GlueTask(
        "QNLI", ("question", "sentence"), "label", ("question", "sentence"), _ENTAILMENT,
        ("accuracy",),
    ),
    "rte": GlueTask("RTE", _PAIR, "label", _PAIR, _ENTAILMENT, ("accuracy",)),
}  # fmt: skip

# Rows of the official release, so that optimizer steps can be counted without the files.
TRAIN_ROWS: dict[str, int] = {
    "cola": 8551,
    "sst2": 67349,
    "mrpc": 3668,
    "qqp": 363846,
    "stsb": 5749,
    "mnli": 392702,
    "qnli": 104743,
    "rte": 2490,
}


def task_title(task: str) -> str:
    """Return a task's name as people write it: "stsb" is STS-B."""
    return GLUE_TASKS[task].folder if task in GLUE_TASKS else task
