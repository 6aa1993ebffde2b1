"""Which options of `lora2 train` have an effect in which runs, as data, and the check of all.

An option that does nothing is a mistake of whoever gave it: of another method, of another
objective, or of something that is switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lora2.data import GLUE_TASKS
from lora2.errors import UserError
from lora2.training.arguments import METHOD_GROUPS, RunSettings, as_typed, option_names
from lora2.training.methods.method import PLACE
from lora2.training.methods.registry import METHODS
from lora2.training.objectives.registry import objective_of
from lora2.training.text_arguments import TextArguments

Settings = RunSettings


@dataclass(frozen=True)
class Effect:
    """When some options have an effect.

    Attributes:
        options: their names.
        holds: whether they have one in a run.
        otherwise: why they have none in other runs, in the words of the options.
    """

    options: tuple[str, ...]
    otherwise: str
    holds: Callable[[Settings], bool]


def _of_training(settings: Settings, name: str, usual: Any) -> str:
    return as_typed(settings.training.get(name, usual))


def _own_data(settings: Settings) -> bool:
    return settings.task is None


def _splits_rows(settings: Settings) -> bool:
    own = _own_data(settings) and settings.data.validation_file is None
    return own or settings.task in ("agreement", "rewrite")


def _prunes(settings: Settings) -> bool:
    if settings.run.method == "adalora":
        return True
    target, brings_r = settings.adapter["target_r"], settings.adapter["start_from"] is not None
    # Above init_r it is a mistake of its own.
    return target is not None and (brings_r or target != settings.adapter["init_r"])


def _has_penalty(settings: Settings) -> bool:
    return settings.run.method == "adalora" or settings.adapter["orthogonality"] == "penalty"


def _starts_gaussian(settings: Settings) -> bool:
    start = settings.adapter["init_weights"]
    return start == "gaussian" or (start is True and _has_penalty(settings))


def _optimizer_in(*starts: str) -> Callable[[Settings], bool]:
    return lambda settings: _of_training(settings, "optim", "adamw_torch_fused").startswith(starts)


def _not(holds: Callable[[Settings], bool]) -> Callable[[Settings], bool]:
    return lambda settings: not holds(settings)


def _strategy_is(name: str, wanted: str, usual: str) -> Callable[[Settings], bool]:
    return lambda settings: _of_training(settings, f"{name}_strategy", usual) == wanted


def _is_on(name: str) -> Callable[[Settings], bool]:
    return lambda settings: settings.training.get(name) not in (None, False, 0, "", "no")


def _of_sft(settings: Settings) -> bool:
    return not objective_of(settings).has_labels


def _reports(settings: Settings) -> bool:
    return any(name != "none" for name in settings.training.get("report_to") or ())


_WITHOUT_ADAM = (
    "sgd", "adagrad", "rmsprop", "adafactor", "lomo", "adalomo", "grokadamw", "galore_",
    "schedule_free_sgd",
)  # fmt: skip
_WITHOUT_ARGUMENTS = ("adamw_torch_fused", "adafactor", "lomo", "adalomo")

EFFECTS: tuple[Effect, ...] = (
    Effect(option_names(TextArguments), "without --objective sft", _of_sft),
    Effect(
        (
            "label_column",
            "kind",
            "train_sentences",
            "validation_sentences",
            "data_dir",
            "classifier_dropout",
            "head_start",
            "head_learning_rate",
            "baseline",
        ),
        "with --objective sft, which has no labels",
        _not(_of_sft),
    ),
    Effect(
        ("train_rows", "validation_rows"),
        "without --task rewrite",
        lambda settings: settings.task == "rewrite",
    ),
    Effect(
        ("packing_strategy",),
        "without --packing True",
        lambda settings: bool(settings.text.packing or settings.text.eval_packing),
    ),
    Effect(
        ("train_sentences", "validation_sentences"),
        "without --task agreement",
        lambda settings: settings.task == "agreement",
    ),
    Effect(
        ("data_dir",),
        f"without a GLUE task (--task {', '.join(GLUE_TASKS)})",
        lambda settings: settings.task in GLUE_TASKS,
    ),
    Effect(
        ("validation_file",),
        "without --train_file",
        lambda settings: settings.data.train_file is not None,
    ),
    Effect(
        ("dataset_config",), "without --dataset", lambda settings: settings.data.dataset is not None
    ),
    Effect(
        ("text_columns", "label_column", "kind"),
        "without your own data (--train_file or --dataset)",
        _own_data,
    ),
    Effect(("dataset_seed",), "on data that are neither generated nor split", _splits_rows),
    Effect(
        ("head_learning_rate",),
        "with --method head, of which learning_rate is the rate",
        lambda settings: settings.run.method != "head",
    ),
    Effect(
        ("baseline",),
        "with --method head, which is the baseline itself",
        lambda settings: settings.run.method != "head",
    ),
    Effect(
        ("baseline_epochs",),
        "without --baseline head",
        lambda settings: settings.run.baseline == "head" and settings.run.method != "head",
    ),
    Effect(
        (
            "k",
            "init_r",
            "k_pattern",
            "rank_pattern",
            "alpha_pattern",
            *PLACE,
            "modules_to_save",
            "init_weights",
            "init_std",
        ),
        "with --start_from, whose adapter brings its own",
        lambda settings: settings.adapter["start_from"] is None,
    ),
    Effect(
        ("layers_pattern",),
        "without --layers_to_transform",
        lambda settings: settings.adapter["layers_to_transform"] is not None,
    ),
    Effect(
        ("orth_reg_weight", "orthogonality_terms"), "without --orthogonality penalty", _has_penalty
    ),
    Effect(
        (
            "budget_unit",
            "tinit",
            "tfinal",
            "deltaT",
            "budget_schedule",
            "importance",
            "beta1",
            "beta2",
        ),
        "without a --target_r below --init_r, since nothing is pruned",
        _prunes,
    ),
    Effect(("init_std",), "without --init_weights gaussian", _starts_gaussian),
    Effect(
        ("max_threshold", "threshold_stages"),
        "without a --threshold_schedule other than constant",
        lambda settings: settings.adapter["threshold_schedule"] != "constant",
    ),
    Effect(
        ("logging_steps",),
        "without --logging_strategy steps",
        _strategy_is("logging", "steps", "steps"),
    ),
    Effect(("eval_steps",), "without --eval_strategy steps", _strategy_is("eval", "steps", "no")),
    Effect(
        ("eval_delay",),
        "with --eval_strategy no",
        _not(_strategy_is("eval", "no", "no")),
    ),
    Effect(
        ("save_steps",), "without --save_strategy steps", _strategy_is("save", "steps", "steps")
    ),
    Effect(
        ("save_total_limit",),
        "with --save_strategy no",
        _not(_strategy_is("save", "no", "steps")),
    ),
    Effect(
        ("warmup_steps",),
        "with an --lr_scheduler_type without warm-up",
        lambda settings: (
            _of_training(settings, "lr_scheduler_type", "linear")
            not in ("constant", "reduce_lr_on_plateau", "greedy")
        ),
    ),
    Effect(
        ("adam_beta1", "adam_beta2", "adam_epsilon"),
        "without an --optim of Adam's kind",
        _not(_optimizer_in(*_WITHOUT_ADAM)),
    ),
    Effect(
        ("optim_args",),
        "without an --optim that takes some, such as sgd",
        lambda settings: (
            _of_training(settings, "optim", "adamw_torch_fused") != "adamw_torch"
            and not _optimizer_in(*_WITHOUT_ARGUMENTS)(settings)
        ),
    ),
    Effect(
        ("optim_target_modules",),
        "without an --optim of GaLore or APOLLO",
        _optimizer_in("galore_", "apollo_"),
    ),
    Effect(
        (
            "dataloader_prefetch_factor",
            "dataloader_persistent_workers",
            "dataloader_multiprocessing_context",
        ),
        "without --dataloader_num_workers of at least 1",
        _is_on("dataloader_num_workers"),
    ),
    Effect(
        ("length_column_name",),
        "without --train_sampling_strategy group_by_length",
        lambda settings: settings.training.get("train_sampling_strategy") == "group_by_length",
    ),
    Effect(("fsdp_config",), "without --fsdp", _is_on("fsdp")),
    Effect(("liger_kernel_config",), "without --use_liger_kernel True", _is_on("use_liger_kernel")),
    Effect(
        ("activation_checkpointing_kwargs",),
        "without --activation_checkpointing True",
        _is_on("activation_checkpointing"),
    ),
    Effect(
        ("neftune_noise_alpha", "label_smoothing_factor"),
        "with --method prompt, in which transformers does not find the model",
        lambda settings: settings.run.method != "prompt",
    ),
    Effect(("run_name", "project"), "without --report_to", _reports),
)
"""Apart from the methods' own options, which `Method.options` names."""

_OF_METHODS = frozenset(name for group in METHOD_GROUPS for name in option_names(group))


def check_effects(settings: Settings, given: Mapping[str, Any], place: str = "") -> None:
    """Check that options have an effect in a run.

    Args:
        settings: all options of the run, resolved.
        given: the options to check, by name; those that switch something off need none.
        place: what gave them, to be said of them, such as " (in my.yaml)".

    Raises:
        UserError: one of them has none.
    """
    for name in given:
        reason = reason_against(settings, name)
        if reason is not None:
            refuse_idle(given, [name], reason, place)


def refuse_idle(
    given: Mapping[str, Any], names: Iterable[str], reason: str, place: str = ""
) -> None:
    """Refuse options that have no effect, where they are given.

    Raises:
        UserError: one of them is given, and with more than that something is off.
    """
    for name in names:
        value = given.get(name)
        # `in` would be wrong: 0 equals False.
        if value is None or value is False or value == "none":
            continue
        raise UserError(
            f"{name}={as_typed(value)}{place} has no effect {reason}; leave {name} out."
        )


def reason_against(settings: Settings, name: str) -> str | None:
    """Return why an option has no effect; None if it has one."""
    if name in _OF_METHODS and name not in METHODS[settings.run.method].options:
        methods = [method.name for method in METHODS.values() if name in method.options]
        return f"with --method {settings.run.method}, only with {', '.join(methods)}"
    unmet = (each for each in EFFECTS if name in each.options and not each.holds(settings))
    return next((each.otherwise for each in unmet), None)
