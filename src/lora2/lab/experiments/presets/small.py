"""Preset `small`: every method on MiniLM, on three tasks, within minutes a run on one thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lora2.lab.experiments.presets.minilm import MINILM
from lora2.lab.experiments.presets.other_rates import at_other_rates
from lora2.lab.experiments.presets.small_settings import (
    SAME_HEAD_SETTINGS,
    SETTINGS,
    TUNED_SETTINGS,
    variant,
    with_key,
)
from lora2.lab.experiments.presets.small_sizes import TO_CUT, rows_of_sizes
from lora2.lab.experiments.presets.task_suite import SettingsTable
from lora2.lab.experiments.presets.tuned_preset import tuned_preset
from lora2.lab.experiments.setting import Setting
from lora2.mathematics.orthogonality import ORTHOGONALITY_TERMS
from lora2.training.base_models.architectures import target_pattern

NAME = "small"


def _starts() -> Iterator[Setting]:
    """Yield LoRA² with its default start and with the one from gradients."""
    for k in (1, 8):
        of = f"lora2-k{k}-same-head"
        yield with_key(of, SAME_HEAD_SETTINGS)
        started = variant(f"lora2-k{k}-gradient", "LoRA²", of, init_weights="gradient")
        yield replace(started, text=f"k={k}, from gradients")


# What is a setting's default already is not said of it: those runs are table 1's.
TABLES: Mapping[str, SettingsTable] = {
    "table1": SettingsTable("methods, tuned alike", SETTINGS),
    "table3": SettingsTable(
        "which factors the penalty holds orthonormal (LoRA², literal, k = 1)",
        tuple(
            variant(
                f"terms-{terms}", terms, "lora2-paper-k1",
                **({} if terms == "all" else {"orthogonality_terms": terms}),
            )
            for terms in ORTHOGONALITY_TERMS
        ),
        ("cola", "stsb"),
        "With k = 1 the literal form stays at chance on agreement, at all learning rates tried.",
    ),
    "table4": SettingsTable(
        "which matrices are adapted (LoRA², k = 1)",
        (
            *(
                variant(
                    f"weights-{names.replace(',', '')}", names, "lora2-k1",
                    target_modules=[target_pattern("bert", names)],
                )
                for names in ("Q,K", "Q,V", "Q,K,V")
            ),
            variant("weights-all", "all six", "lora2-k1"),
        ),
    ),
    "sizes": SettingsTable(
        "score and final size, the head's learning rate the same for all",
        tuple(rows_of_sizes()),
        note="Cut: the last state of the adapters above, at one threshold on all singular values "
        "of the model (PARA, arXiv 2604.27796); best and last are the same there.",
    ),
    "starts": SettingsTable(
        "v random, or turned towards what gradients have in common; one rate for the head",
        tuple(_starts()),
    ),
    "rates": SettingsTable(
        "the usual learning rate, a third and three times of it, the head's rate the same for all",
        tuple(at_other_rates(TO_CUT.get(row.key, row) for row in SAME_HEAD_SETTINGS)),
    ),
    "figure3": SettingsTable(
        "where the kept singular values are (LoRA²)",
        tuple(with_key(key, SETTINGS) for key in ("lora2-k1", "lora2-k8")),
    ),
    "ablations": SettingsTable(
        "one choice changed at a time (LoRA², k = 1)",
        (
            variant("default", "as in table 1", "lora2-k1"),
            variant("eq8", "importance by eq. 8", "lora2-k1", importance="full"),
            variant(
                "orthonormal", "orthonormal start, Λ = 0", "lora2-k1", init_weights="orthonormal"
            ),
            variant("gaussian", "Gaussian start, Λ = 0", "lora2-k1", init_weights="gaussian"),
            variant("unpruned", "nothing pruned", "lora2-k1", target_r=None),
            variant("zero-head", "head's bias from zero", "lora2-k1", head_start="zero"),
        ),
    ),
}  # fmt: skip

PRESET = tuned_preset(
    NAME,
    "MiniLM on three tasks, minutes a run",
    MINILM,
    TABLES,
    TUNED_SETTINGS,
    timed=with_key("lora2-k8", SETTINGS),
)
