"""The columns of the paper's tables: which number of which task each of them shows."""

from __future__ import annotations

from lora2.lab.experiments.tables.grid import Column

TABLE1 = (
    Column("cola_mcc", "CoLA (Mcc)", "cola", "matthews_correlation"),
    Column("sst2_acc", "SST-2 (Acc)", "sst2", "accuracy"),
    Column("mrpc_acc", "MRPC (Acc)", "mrpc", "accuracy"),
    Column("qqp_acc", "QQP (Acc)", "qqp", "accuracy", pair="qqp"),
    Column("qqp_f1", "QQP (F1)", "qqp", "f1", pair="qqp"),
    Column("stsb_pearson", "STS-B (Pearson)", "stsb", "pearson"),
    Column("mnli_m_acc", "MNLI-m (Acc)", "mnli", "matched_accuracy", pair="mnli"),
    Column("mnli_mm_acc", "MNLI-mm (Acc)", "mnli", "mismatched_accuracy", pair="mnli"),
    Column("qnli_acc", "QNLI (Acc)", "qnli", "accuracy"),
    Column("rte_acc", "RTE (Acc)", "rte", "accuracy"),
)
_OF = {column.name: column for column in TABLE1}

TABLE3 = (
    _OF["mrpc_acc"],
    _OF["stsb_pearson"],
    # It is the mismatched one of its two sets: the line "all" is Table 1's LoRA² (k = 1), where
    # 90.38 is the mismatched accuracy and 90.19 the matched one.
    Column("mnli_acc", "MNLI-mm (Acc)", "mnli", "mismatched_accuracy"),
    _OF["rte_acc"],
)
TABLE4 = (_OF["cola_mcc"], _OF["mrpc_acc"], _OF["stsb_pearson"], _OF["rte_acc"])
