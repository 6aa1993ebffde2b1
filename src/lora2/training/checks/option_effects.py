"""Which options of `lora2 train` have an effect in which runs, and the check of all.

What our own options need is in the metadata of their fields; here is what those of adapters'
configurations and of transformers need.

An option that does nothing is a mistake of whoever gave it: of another method, of another
objective, or of something that is switched off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lora2.support.option_need import Need
from lora2.training.methods.method import PLACE
from lora2.training.methods.rank_options import with_rank_option
from lora2.training.methods.registry import METHODS, method_of
from lora2.training.objectives.registry import OBJECTIVES, objective_of
from lora2.training.options.arguments import OPTION_GROUPS, RunSettings, as_typed, option_names
from lora2.training.options.idle_options import refuse_idle
from lora2.training.options.method_arguments import METHOD_GROUPS
from lora2.training.options.peft_registry import ANY
from lora2.tuners.lora2.config import SCHEDULE_FIELDS


def _of_training(settings: RunSettings, name: str, usual: Any) -> str:
    return as_typed(settings.training.get(name, usual))


def _may_have_penalty(settings: RunSettings) -> bool:
    return method_of(settings).may_have_penalty(settings.adapter)


def _starts_gaussian(settings: RunSettings) -> bool:
    start = settings.adapter["init_weights"]
    return start == "gaussian" or (start is True and _may_have_penalty(settings))


def _optimizer_in(*starts: str) -> Callable[[RunSettings], bool]:
    return lambda settings: _of_training(settings, "optim", "adamw_torch_fused").startswith(starts)


def _not(holds: Callable[[RunSettings], bool]) -> Callable[[RunSettings], bool]:
    return lambda settings: not holds(settings)


def _strategy_is(name: str, wanted: str, usual: str) -> Callable[[RunSettings], bool]:
    return lambda settings: _of_training(settings, f"{name}_strategy", usual) == wanted


def _is_on(name: str) -> Callable[[RunSettings], bool]:
    return lambda settings: settings.training.get(name) not in (None, False, 0, "", "no")


def _reports(settings: RunSettings) -> bool:
    return any(name != "none" for name in settings.training.get("report_to") or ())


_WITHOUT_ADAM = (
    "sgd", "adagrad", "rmsprop", "adafactor", "lomo", "adalomo", "grokadamw", "galore_",
    "schedule_free_sgd",
)  # fmt: skip
_WITHOUT_ARGUMENTS = ("adamw_torch_fused", "adafactor", "lomo", "adalomo")

EFFECTS: dict[tuple[str, ...], Need] = {
    (
        "k",
        "init_r",
        "k_pattern",
        "rank_pattern",
        "alpha_pattern",
        *PLACE,
        "target_parameters",
        "modules_to_save",
        "trainable_token_indices",
        "init_weights",
        "init_std",
    ): Need(
        "with --start_from, whose adapter brings its own",
        lambda settings: settings.adapter["start_from"] is None,
    ),
    ("layers_pattern",): Need(
        "without --layers_to_transform",
        lambda settings: settings.adapter["layers_to_transform"] is not None,
    ),
    ("orth_reg_weight", "orthogonality_terms"): Need(
        "without --orthogonality penalty", _may_have_penalty
    ),
    tuple(name for name in SCHEDULE_FIELDS if name != "target_r"): Need(
        "without a --target_r below --init_r, since nothing is pruned",
        lambda settings: method_of(settings).prunes(settings.adapter),
    ),
    ("init_std",): Need("without --init_weights gaussian", _starts_gaussian),
    ("max_threshold", "threshold_stages"): Need(
        "without a --threshold_schedule other than constant",
        lambda settings: settings.adapter["threshold_schedule"] != "constant",
    ),
    ("logging_steps",): Need(
        "without --logging_strategy steps", _strategy_is("logging", "steps", "steps")
    ),
    ("eval_steps",): Need("without --eval_strategy steps", _strategy_is("eval", "steps", "no")),
    ("eval_delay",): Need("with --eval_strategy no", _not(_strategy_is("eval", "no", "no"))),
    ("save_steps",): Need("without --save_strategy steps", _strategy_is("save", "steps", "steps")),
    ("save_total_limit",): Need(
        "with --save_strategy no", _not(_strategy_is("save", "no", "steps"))
    ),
    ("warmup_steps",): Need(
        "with an --lr_scheduler_type without warm-up",
        lambda settings: (
            _of_training(settings, "lr_scheduler_type", "linear")
            not in ("constant", "reduce_lr_on_plateau", "greedy")
        ),
    ),
    ("lr_scheduler_kwargs",): Need(
        "with an --lr_scheduler_type that takes none",
        lambda settings: (
            _of_training(settings, "lr_scheduler_type", "linear")
            not in ("constant", "constant_with_warmup")
        ),
    ),
    ("adam_beta1", "adam_beta2", "adam_epsilon"): Need(
        "without an --optim of Adam's kind", _not(_optimizer_in(*_WITHOUT_ADAM))
    ),
    ("optim_args",): Need(
        "without an --optim that takes some, such as sgd",
        lambda settings: (
            _of_training(settings, "optim", "adamw_torch_fused") != "adamw_torch"
            and not _optimizer_in(*_WITHOUT_ARGUMENTS)(settings)
        ),
    ),
    ("optim_target_modules",): Need(
        "without an --optim of GaLore or APOLLO", _optimizer_in("galore_", "apollo_")
    ),
    (
        "dataloader_prefetch_factor",
        "dataloader_persistent_workers",
        "dataloader_multiprocessing_context",
    ): Need("without --dataloader_num_workers of at least 1", _is_on("dataloader_num_workers")),
    ("fsdp_config",): Need("without --fsdp", _is_on("fsdp")),
    ("liger_kernel_config",): Need("without --use_liger_kernel True", _is_on("use_liger_kernel")),
    ("activation_checkpointing_kwargs",): Need(
        "without --activation_checkpointing True", _is_on("activation_checkpointing")
    ),
    ("neftune_noise_alpha", "label_smoothing_factor"): Need(
        "with --method prompt, in which transformers does not find the model",
        lambda settings: method_of(settings).tokens_in_front is None,
    ),
    ("new_tokens",): Need(
        "with a --method that trains no single tokens, as lora2, lora, sora and bottleneck do",
        lambda settings: "trainable_token_indices" in method_of(settings).options,
    ),
    ("run_name", "project"): Need("without --report_to", _reports),
}
"""Apart from whole methods and objectives, whose options `Method.options` and the like name."""

NEEDS: Mapping[str, Need] = {
    each.name: each.metadata["needs"]
    for group in OPTION_GROUPS.values()
    for each in dataclasses.fields(group)
    if "needs" in each.metadata
}
"""By option. A new option of `lora2 train` has what it needs in the metadata of its field."""

_OF_METHODS = frozenset(name for group in METHOD_GROUPS for name in option_names(group))


def check_effects(settings: RunSettings, given: Mapping[str, Any], place: str = "") -> None:
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


def reason_against(settings: RunSettings, name: str) -> str | None:
    """Return why an option has no effect; None if it has one."""
    if name in _OF_METHODS and name not in method_of(settings).options:
        chosen = with_rank_option(method_of(settings), name)
        return f"{chosen}, only with {_readers_of(name)}"
    objective = objective_of(settings)
    if name in objective.unread:
        return f"with --objective {objective.name}, {objective.unread[name]}"
    readers = [each for each in OBJECTIVES.values() if name in each.options]
    if readers and objective not in readers:
        lacks = objective.output.lacks
        if lacks is not None and all(each.output is not objective.output for each in readers):
            return f"with --objective {objective.name}, {lacks}"
        return f"without --objective {' or '.join(each.name for each in readers)}"
    unmet = (each for each in _needs_of(name) if not each.holds(settings))
    return next((each.otherwise for each in unmet), None)


def _readers_of(name: str) -> str:
    """Return the methods that read an option; those of PEFT's registry, which are many, as one."""
    readers = [method for method in METHODS.values() if name in method.options]
    names = [method.name for method in readers if not method.from_peft or method.name == ANY]
    if ANY in names:
        names.append("PEFT's other methods")
    return ", ".join(names or [method.name for method in readers])


def _needs_of(name: str) -> Iterator[Need]:
    if name in NEEDS:
        yield NEEDS[name]
    yield from (need for options, need in EFFECTS.items() if name in options)
