"""A small grid and its records, small enough to work the table out by hand."""

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.tables.grid import Column, Grid, Row

COLA = Column("cola_mcc", "CoLA", "cola", "matthews_correlation")
MATCHED = Column("mnli_m_acc", "MNLI-m", "mnli", "matched_accuracy", pair="mnli")
MISMATCHED = Column("mnli_mm_acc", "MNLI-mm", "mnli", "mismatched_accuracy", pair="mnli")
TABLE1_COLUMNS = (
    COLA,
    Column("sst2_acc", "SST-2", "sst2", "accuracy"),
    Column("mrpc_acc", "MRPC", "mrpc", "accuracy"),
    Column("qqp_acc", "QQP acc", "qqp", "accuracy", pair="qqp"),
    Column("qqp_f1", "QQP F1", "qqp", "f1", pair="qqp"),
    Column("stsb_pearson", "STS-B", "stsb", "pearson"),
    MATCHED,
    MISMATCHED,
    Column("qnli_acc", "QNLI", "qnli", "accuracy"),
    Column("rte_acc", "RTE", "rte", "accuracy"),
)


def runs(task, method="lora2", seeds=3, **options):
    return tuple(RunDescription("tiny", task, method, options, seed) for seed in range(seeds))


def finished(run, best, last, **fields):
    """A record of two evaluations; `best` and `last` are metrics by name."""
    evaluations = [{"step": 10, "epoch": 1.0, **best}, {"step": 20, "epoch": 2.0, **last}]
    parameters = {"adapter": 1200, "head": 50}
    counts = {"trainable_parameters": parameters, "final_parameters": parameters}
    return RunRecord(
        run, "finished", evaluations=evaluations, best=evaluations[0], last=evaluations[1],
        **counts | fields,
    )  # fmt: skip


def failed(run):
    return RunRecord(run, "failed", error="out of memory")


def diverged(run):
    return RunRecord(run, "diverged", error="The training loss is nan at step 3")


def by_run(*records):
    return {record.description: record for record in records}.get


# CoLA has three seeds; of MNLI, seed 2 failed. LoRA has one run of CoLA and none of MNLI.
LORA2 = Row("LoRA²", "lora2", "k=1", {t: runs(t) for t in ("cola", "mnli")}, paper="lora2 k=1")
LORA = Row("LoRA", "lora", "r=2", {t: runs(t, "lora") for t in ("cola", "mnli")})
GRID = Grid(
    "table1", "GLUE & more", (COLA, MATCHED, MISMATCHED), (LORA2, LORA), notes=("One & only.",)
)


def _cola(run, best, last, **fields):
    return finished(run, {"matthews_correlation": best}, {"matthews_correlation": last}, **fields)


def _mnli(run, matched, mismatched):
    best = {"matched_accuracy": matched, "mismatched_accuracy": mismatched}
    return finished(
        run, best, {"matched_accuracy": 0.5, "mismatched_accuracy": 0.25},
        final_parameters={"adapter": 1000, "head": 50},
    )  # fmt: skip


FIND = by_run(
    _cola(LORA2.runs["cola"][0], 0.70, 0.69),
    _cola(LORA2.runs["cola"][1], 0.72, 0.71),
    _cola(LORA2.runs["cola"][2], 0.74, 0.70),
    _mnli(LORA2.runs["mnli"][0], 0.90, 0.80),
    _mnli(LORA2.runs["mnli"][1], 0.92, 0.84),
    failed(LORA2.runs["mnli"][2]),
    _cola(LORA.runs["cola"][1], 0.6, 0.55),
)
