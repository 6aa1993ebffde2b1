"""Preset `small`: every method on MiniLM, on three tasks, within minutes a run on one thread."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from lora2.errors import UserError
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.grid import Column, Grid, Row
from lora2.lab.experiments.paper_numbers import paper_rows
from lora2.lab.experiments.presets.preset import Preset, Wanted
from lora2.lab.experiments.setting import Experiment, Search, Setting
from lora2.mathematics.orthogonality import ORTHOGONALITY_TERMS
from lora2.training.architectures import target_pattern

MODEL = "minilm"
SEEDS = 3
TUNING_SEED = 100
"""The seed of all tuning runs; no table has it."""

_COMMON: dict[str, Any] = {
    "head_start": "label_mean",
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0,
    # Half the padding, half the time.
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "steps",
    "logging_steps": 20,
}
# Four, four and two evaluations: of 504, 1,072 and 360 optimizer steps.
TASKS: Mapping[str, Mapping[str, Any]] = {
    "agreement": _COMMON | {"max_length": 64, "num_train_epochs": 8, "eval_steps": 126},
    "cola": _COMMON | {"max_length": 64, "num_train_epochs": 4, "eval_steps": 268},
    "stsb": _COMMON | {"max_length": 128, "num_train_epochs": 2, "eval_steps": 180},
}

# The window of AdaLoRA's and LoRA²'s released scripts for CoLA, as shares of their 6,700 steps.
_SCRIPTS_WINDOW = {"tinit": 0.12, "tfinal": 0.52, "deltaT": 10}
# The default where less than half is left; written out, so that the records stay what they are.
_LATE_WINDOW = {"tinit": 0.5, "tfinal": 0.2}
_PAPER_FORM = {
    **_SCRIPTS_WINDOW, "init_r": 8, "target_r": 4, "lora_alpha": 16,
    "orthogonality": "penalty", "orth_reg_weight": 0.1,
}  # fmt: skip
# Half of the singular values pruned; all else as by default.
_LORA2 = {"init_r": 8, "target_r": 4, "lora_alpha": 4}
# ξ of SoRA's released script.
_SORA = {"lora_alpha": 16, "threshold": 3e-4}

# A decade on each side of a method's usual learning rate.
_SEARCH = Search(1e-4, 1e-3, 1e-2)
_LORA_SEARCH = Search(5e-5, 5e-4, 5e-3)
# From Gaussian factors of 0.02 with Λ = 0, a first step of Adam moves the weight fifty times less
# than LoRA's (AdaLoRA, r = 8), or thousands of times (LoRA²'s literal form).
_SLOW_SEARCH = Search(1e-3, 1e-2, 1e-1)

SETTINGS: tuple[Setting, ...] = (
    Setting("head", "head alone", "head", "", {}, Search(3e-4, 3e-3, 3e-2)),
    Setting("bitfit", "BitFit", "bitfit", "", {}, _SEARCH),
    Setting(
        "full", "full fine-tuning", "full", "", {}, Search(1e-5, 1e-4, 1e-3)
    ),
    Setting(
        "adalora-r1", "AdaLoRA", "adalora", "r=1",
        {**_SCRIPTS_WINDOW, "init_r": 2, "target_r": 1, "lora_alpha": 16, "orth_reg_weight": 0.1},
        _SLOW_SEARCH,
    ),
    Setting("lora-r1", "LoRA", "lora", "r=1", {"k": 1, "lora_alpha": 16}, _LORA_SEARCH),
    Setting("sora-r1", "SoRA", "sora", "r=1", {"k": 1, **_SORA}, _SEARCH),
    Setting(
        "lora2-paper-k1", "LoRA², literal", "lora2", "k=1", {"k": 1, **_PAPER_FORM}, _SLOW_SEARCH
    ),
    Setting(
        "lora2-k1", "LoRA²", "lora2", "k=1", {"k": 1, **_LORA2}, _SEARCH,
    ),
    Setting(
        "adalora-r8", "AdaLoRA", "adalora", "r=8",
        {**_SCRIPTS_WINDOW, "init_r": 12, "target_r": 8, "lora_alpha": 16, "orth_reg_weight": 0.1},
        _SLOW_SEARCH,
    ),
    Setting("lora-r8", "LoRA", "lora", "r=8", {"k": 8, "lora_alpha": 16}, _LORA_SEARCH),
    Setting("sora-r8", "SoRA", "sora", "r=8", {"k": 8, **_SORA}, _SEARCH),
    Setting(
        "lora2-paper-k8", "LoRA², literal", "lora2", "k=8", {"k": 8, **_PAPER_FORM}, _SLOW_SEARCH
    ),
    Setting(
        "lora2-k8", "LoRA²", "lora2", "k=8", {"k": 8, **_LORA2}, _SEARCH,
    ),
)  # fmt: skip


# The rate of the head is the adapter's in the tables of the paper, as in its scripts. Where sizes
# are compared it is one for all: LoRA²'s usual rate is twice LoRA's.
_HEAD_RATE = {"head_learning_rate": 1e-3}
_SAME_HEAD = "-same-head"
SAME_HEAD_SETTINGS = tuple(
    replace(setting, key=setting.key + _SAME_HEAD, options={**setting.options, **_HEAD_RATE})
    for setting in SETTINGS
    if setting.key.partition("-")[0] in ("lora", "adalora", "sora", "lora2")
    and not setting.key.startswith("lora2-paper")
)
TUNED_SETTINGS = (*SETTINGS, *SAME_HEAD_SETTINGS)
"""All settings that `lora2 tune` knows."""


def _variant(key: str, label: str, of: str, **options: Any) -> Setting:
    """Return a setting with other options, at the learning rate of the one it is made from."""
    base = next(setting for setting in TUNED_SETTINGS if setting.key == of)
    return replace(base, key=key, label=label, options={**base.options, **options}, tuned_as=of)


# LoRA's parameters at r = 1: of 36 matrices, 24 of 384 × 384 and 12 of 384 × 1536.
_OF_RANK_1 = 24 * (384 + 384) + 12 * (384 + 1536)
_CUTS = {rank: round(rank * _OF_RANK_1) for rank in (4, 2, 1, 0.5)}


def _sizes() -> Iterator[Setting]:
    """Yield the rows of the table of sizes: trained at a size, pruned to it, or cut to it."""
    lora, lora2 = "lora-r8-same-head", "lora2-k8-same-head"
    base = {setting.key: setting for setting in SAME_HEAD_SETTINGS}
    rank: float
    yield replace(base[lora], cuts=tuple(_CUTS.values()))
    for rank in (4, 2):
        yield replace(_variant(f"lora-r{rank}", "LoRA", lora, k=rank), text=f"r={rank}")
    yield base["lora-r1-same-head"]
    for rank, size in _CUTS.items():
        cut = replace(base[lora], cuts=tuple(_CUTS.values()), cut=size)
        yield replace(cut, label="LoRA, cut after training", text=f"r=8 to {rank:g}")
    for rank in (8, 1):
        adalora = _variant(f"adalora-{rank}", "AdaLoRA", "adalora-r8-same-head", target_r=rank)
        yield replace(adalora, text=f"r=12 to {rank}")
    whole = _variant("lora2-unpruned", "LoRA²", lora2, target_r=None)
    whole = replace(whole, cuts=tuple(_CUTS.values()), text="k=8, unpruned")
    yield whole
    for rank in _CUTS:
        window = {} if rank >= base[lora2].options["init_r"] / 2 else _LATE_WINDOW
        pruned = _variant(
            f"lora2-to-{rank:g}", "LoRA²", lora2, target_r=rank, budget_unit="parameters", **window
        )
        yield replace(pruned, text=f"k=8 to {rank:g}")
    for rank, size in _CUTS.items():
        yield replace(whole, label="LoRA², cut after training", text=f"k=8 to {rank:g}", cut=size)


COLUMNS = (
    Column("agreement_acc", "agreement (Acc)", "agreement", "accuracy"),
    Column("cola_mcc", "CoLA (Mcc)", "cola", "matthews_correlation"),
    Column("stsb_pearson", "STS-B (Pearson)", "stsb", "pearson"),
)


class SmallTable(NamedTuple):
    """A table of the preset.

    Attributes:
        title: what it shows.
        settings: its rows.
        tasks: its columns; all tasks unless given.
        note: a sentence below it.
    """

    title: str
    settings: tuple[Setting, ...]
    tasks: tuple[str, ...] | None = None
    note: str | None = None


# What is a setting's default already is not said of it: those runs are table 1's.
TABLES: Mapping[str, SmallTable] = {
    "table1": SmallTable("methods, tuned alike", SETTINGS),
    "table3": SmallTable(
        "which factors the penalty holds orthonormal (LoRA², literal, k = 1)",
        tuple(
            _variant(
                f"terms-{terms}", terms, "lora2-paper-k1",
                **({} if terms == "all" else {"orthogonality_terms": terms}),
            )
            for terms in ORTHOGONALITY_TERMS
        ),
        ("cola", "stsb"),
        "With k = 1 the literal form stays at chance on agreement, at all learning rates tried.",
    ),
    "table4": SmallTable(
        "which matrices are adapted (LoRA², k = 1)",
        (
            *(
                _variant(
                    f"weights-{names.replace(',', '')}", names, "lora2-k1",
                    target_modules=[target_pattern("bert", names)],
                )
                for names in ("Q,K", "Q,V", "Q,K,V")
            ),
            _variant("weights-all", "all six", "lora2-k1"),
        ),
    ),
    "sizes": SmallTable(
        "score and final size, the head's learning rate the same for all",
        tuple(_sizes()),
        note="Cut: the last state of the adapters above, at one threshold on all singular values "
        "of the model (PARA, arXiv 2604.27796); best and last are the same there.",
    ),
    "figure3": SmallTable(
        "where the kept singular values are (LoRA²)",
        tuple(setting for setting in SETTINGS if setting.key in ("lora2-k1", "lora2-k8")),
    ),
    "ablations": SmallTable(
        "one choice changed at a time (LoRA², k = 1)",
        (
            _variant("default", "as in table 1", "lora2-k1"),
            _variant("eq8", "importance by eq. 8", "lora2-k1", importance="full"),
            _variant(
                "orthonormal", "orthonormal start, Λ = 0", "lora2-k1", init_weights="orthonormal"
            ),
            _variant("gaussian", "Gaussian start, Λ = 0", "lora2-k1", init_weights="gaussian"),
            _variant("unpruned", "nothing pruned", "lora2-k1", target_r=None),
            _variant("zero-head", "head's bias from zero", "lora2-k1", head_start="zero"),
        ),
    ),
}  # fmt: skip


def experiments(
    settings: Iterable[Setting] = SETTINGS, tasks: Collection[str] | None = None
) -> list[Experiment]:
    """Return every setting on every task, all of the preset's unless given."""
    return [
        Experiment(MODEL, task, setting, TASKS[task])
        for setting in settings
        for task in (TASKS if tasks is None else tasks)
    ]


def grid(wanted: Wanted) -> Grid:
    """Return a table at the learning rates that tuning chose.

    Where nothing was tuned, the usual learning rate of the method is used, and a note says so.

    Raises:
        UserError: another model is asked for.
    """
    _check_model(wanted.model)
    table = TABLES[wanted.table]
    columns = tuple(
        column for column in COLUMNS if table.tasks is None or column.task in table.tasks
    )
    rows = tuple(_row(setting, columns, wanted) for setting in table.settings)
    notes = [_note(wanted.seeds), *_untuned_note(table, wanted)]
    if table.note:
        notes.append(table.note)
    return Grid(wanted.table, f"MiniLM-L6: {table.title}", columns, rows, tuple(notes))


def _check_model(model: str) -> None:
    if model != MODEL:
        raise UserError(
            f"model: the preset small is of {MODEL}, not of {model}; leave the option out, or take "
            "--preset paper."
        )


def _note(seeds: Iterable[int]) -> str:
    return (
        f"all-MiniLM-L6-v2, seeds {', '.join(map(str, seeds))}; the paper's numbers are of "
        "DeBERTaV3-base and are on another scale."
    )


def _untuned_note(table: SmallTable, wanted: Wanted) -> Iterator[str]:
    names = {each.tuned_name for each in experiments(table.settings, table.tasks)}
    untuned = sorted(names - wanted.choices.keys())
    if untuned:
        yield f"Not tuned, at the usual learning rate: {', '.join(untuned)}."


def _row(setting: Setting, columns: Iterable[Column], wanted: Wanted) -> Row:
    runs = {}
    for each in experiments([setting], [column.task for column in columns]):
        choice = wanted.choices.get(each.tuned_name)
        chosen = None if choice is None else choice.learning_rate
        rate = setting.search.first if chosen is None else chosen
        runs[each.task] = tuple(each.run(rate, seed) for seed in wanted.seeds)
    return Row(setting.label, setting.method, setting.text, runs, cut=setting.cut)


def timed(model: str) -> list[RunDescription]:
    """Return one run for each of the tasks that the paper's Table 2 has too.

    Raises:
        UserError: another model is asked for.
    """
    _check_model(model)
    chosen = next(setting for setting in SETTINGS if setting.key == "lora2-k8")
    return [
        each.run(chosen.search.first, seed=0)
        for each in experiments([chosen])
        if each.task in paper_rows("table2")
    ]


PRESET = Preset(
    name="small",
    note="MiniLM on three tasks, minutes a run",
    model=MODEL,
    seeds=SEEDS,
    tables=tuple(TABLES),
    grid=grid,
    timed=timed,
)
