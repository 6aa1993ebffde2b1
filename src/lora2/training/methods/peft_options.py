"""From the options of a run to PEFT's config of a method: what `peft_config` may say, checked."""

from __future__ import annotations

import operator
import types
from collections.abc import Iterable
from enum import Enum
from functools import reduce
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft import LoraConfig, TaskType
from peft.config import PeftConfig
from peft.tuners.lora import LoraModel
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.support.error_text import in_one_sentence
from lora2.support.field_types import fits, in_words, shortened
from lora2.support.nearest_name import nearest
from lora2.support.ranges import POSITIVE, SHARE, SIZE, check_number
from lora2.training.methods.method import AS_THEY_ARE, PLACE, Options
from lora2.training.methods.whole_modules import HEADS
from lora2.training.methods.wrapping import one_word
from lora2.training.options.idle_options import refuse_idle
from lora2.training.options.peft_registry import (
    ALL_PEFT_KINDS,
    ANY,
    KINDS,
    PeftKind,
    field_names,
    has_own_method,
)
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.base.loading import FIELDS_OF_PEFT

OPTION = "peft_config"
# PEFT writes these fields into adapter_config.json, and a run decides them itself.
_BOOKKEEPING = field_names(PeftConfig)
# Options of lora2 that are fields of PEFT's configs, too.
_SHARED = (*PLACE, *AS_THEY_ARE)
STARTS_OF_DATA = ("corda", "eva", "lora_ga")
# PEFT declares them as mappings of anything.
_PATTERNS = {
    "rank_pattern": dict[str, int] | None,
    "n_frequency_pattern": dict[str, int] | None,
    "block_size_pattern": dict[str, int] | None,
    "alpha_pattern": dict[str, float] | None,
    "lambda_pattern": dict[str, float] | None,
}
_RANDOM_START = "pissa_niter"
_OF_JSON = (str, int, float, bool, dict, list, type(None))
# With 0, an adapter changes nothing.
_SCALES = (
    "lora_alpha", "alpha", "alpha_pattern", "psoft_alpha", "randlora_alpha", "shadow_alpha",
    "scaling",
)  # fmt: skip
# Fields that may be any whole number.
_SEEDS = ("seed", "_key")


def shared_options(kind: PeftKind) -> tuple[str, ...]:
    """Return the options of lora2 that a method of PEFT has fields for."""
    return tuple(name for name in _SHARED if name in field_names(kind.config_type))


def kind_of(options: Options) -> PeftKind:
    """Return the method that the peft_type of `peft_config` names.

    Raises:
        UserError: it names none, or one that has options of its own here.
    """
    content = options.get(OPTION)
    if content is None:
        raise UserError(
            f"{OPTION}: --method {ANY} needs the config of a method; give a JSON file such as an "
            'adapter_config.json, or an object such as {"peft_type": "MISS"}.'
        )
    if "peft_type" not in content:
        raise UserError(
            f"{OPTION}: there is no peft_type in it, by which --method {ANY} finds the method; add "
            "one, or take --method with the method's name."
        )
    named = content["peft_type"]
    if not isinstance(named, str):
        raise UserError(f"{OPTION}: peft_type is {shortened(named)}, and must be a text.")
    kind = next((each for each in ALL_PEFT_KINDS.values() if each.peft_type.value == named), None)
    if has_own_method(named):
        raise UserError(
            f"{OPTION}: peft_type={named} has a method of its own here, with all that it needs in "
            f"training; write --method {named.lower()}."
        )
    if kind is None:
        known = ", ".join(each.peft_type.value for each in ALL_PEFT_KINDS.values())
        raise UserError(
            f"{OPTION}: peft_type={shortened(named)} is no method of PEFT that adapts modules; "
            f"write one of {known}."
        )
    return kind


def check(kind: PeftKind, options: Options) -> None:
    """Check the options of a method of PEFT, before anything is loaded.

    Raises:
        UserError: a field that PEFT's config does not have, one of another type, or a value that
            PEFT refuses.
    """
    refuse_idle(
        options,
        [name for name in _SHARED if name not in field_names(kind.config_type)],
        f"with {kind.config_type.__name__} of PEFT",
    )
    make_config(kind, options)


def make_config(kind: PeftKind, options: Options, model: PreTrainedModel | None = None) -> Any:
    """Return PEFT's config, without the head; with default targets, if the model is given.

    Raises:
        UserError: as `check`.
    """
    fields = {**_own_fields(kind, options), **_shared_fields(kind, options)}
    if model is not None and fields.get("target_modules") is None:
        targets = default_targets(kind, model.config.model_type)
        fields |= {} if targets is None else {"target_modules": targets}
    with in_one_sentence(f"{OPTION}: {kind.config_type.__name__} of PEFT refuses it", "correct it"):
        return kind.config_type(**fields)


def effective_options(kind: PeftKind, options: Options) -> dict[str, Any]:
    """Return the options with those that `peft_config` gives of them.

    Raises:
        UserError: both give one, and not the same.
    """
    return {**options, **_shared_fields(kind, options)}


def default_targets(kind: PeftKind, model_type: str) -> list[str] | str | None:
    """Return the modules that LoRA and LoRA² adapt, for a method that adapts the same; else None.

    None leaves the choice to PEFT: its methods for normalisations, or for outputs alone, have
    default modules of their own.
    """
    own, of_lora = getattr(kind.tuner, "target_module_mapping", {}), LoraModel.target_module_mapping
    adapts_the_same = any(of_lora.get(name) == modules for name, modules in own.items())
    if not adapts_the_same or own.get(model_type) not in (None, of_lora.get(model_type)):
        return None
    found = DEFAULT_TARGET_MODULES.get(model_type)
    return list(found) if isinstance(found, list) else found


def _own_fields(kind: PeftKind, options: Options) -> dict[str, Any]:
    """Return the fields that are no options of lora2's, checked."""
    content = options.get(OPTION) or {}
    known, types_of = field_names(kind.config_type), _types_of(kind.config_type)
    named = content.get("peft_type", kind.peft_type.value)
    if named != kind.peft_type.value:
        raise UserError(
            f"{OPTION}: peft_type={shortened(named)}, and --method {kind.name} is "
            f"{kind.peft_type.value}; write --method {_name_of(named)}, or leave peft_type out."
        )
    for name, value in content.items():
        if name not in known:
            raise UserError(f"{OPTION}: {_unknown(name, known, kind)}")
        if name in kind.fields and value != kind.fields[name]:
            raise UserError(
                f"{OPTION}: {name}={shortened(value)}, and --method {kind.name} is "
                f"{name}={kind.fields[name]}; leave {name} out, or write --method {ANY}."
            )
        if not fits(value, types_of.get(name, Any)):
            raise UserError(
                f"{OPTION}: {name} is {shortened(value)}, and must be "
                f"{in_words(types_of[name])}; correct it, or leave it out."
            )
        _check_number(name, name, value)
    _check_start(content.get("init_lora_weights"))
    _check_task_type(content.get("task_type"))
    own = {name: content[name] for name in content if name not in (*_BOOKKEEPING, *_SHARED)}
    return {**kind.fields, **own}


def _check_number(field: str, shown: str, value: Any) -> None:
    """Refuse numbers that PEFT accepts but cannot use.

    They are a dropout that is no share, a scale that is not positive, and a size that no memory
    holds.

    Args:
        field: its name.
        shown: what a message calls the number.
        value: of any type.

    Raises:
        UserError: it is such a number.
    """
    if fits(value, float) and field.endswith("dropout"):
        check_number(f"{OPTION}: {shown}", value, SHARE)
    elif fits(value, float) and field in _SCALES:
        check_number(f"{OPTION}: {shown}", value, POSITIVE)
    elif fits(value, int) and value >= SIZE.below and not field.endswith(_SEEDS):
        raise UserError(f"{OPTION}: {shown}={value} must be below {SIZE.below:,.0f}.")
    elif field.endswith("_pattern") and isinstance(value, dict):
        for module, entry in value.items():
            _check_number(field, f"{field}[{module!r}]", entry)


def _check_task_type(given: Any) -> None:
    known = [task.value for task in TaskType]
    if given is not None and given not in known:
        raise UserError(
            f"{OPTION}: task_type={shortened(given)} is none of {', '.join(known)}; leave it out, "
            "since --objective says it."
        )


def _check_start(start: Any) -> None:
    """Check that a start of LoRA is one that PEFT makes by itself, and again when it loads.

    Raises:
        UserError: it is not; PEFT would train and save without a word.
    """
    if start in STARTS_OF_DATA:
        raise UserError(
            f"{OPTION}: init_lora_weights={start!r} is computed from data before the training, by "
            "a call of PEFT that is not made here; leave it out, or write 'pissa' or 'olora'."
        )
    if isinstance(start, str) and start.startswith(_RANDOM_START):
        raise UserError(
            f"{OPTION}: init_lora_weights={start!r} changes the weights by random numbers, which "
            "PEFT does not save, so that the saved adapter would compute something else; write "
            "'pissa'."
        )


def _shared_fields(kind: PeftKind, options: Options) -> dict[str, Any]:
    """Return the fields that are options of lora2's, too, those in which `peft_config` has some."""
    content = options.get(OPTION) or {}
    fields = {}
    for name in shared_options(kind):
        given, of_file = options.get(name), content.get(name)
        if name == "modules_to_save" and of_file:
            # PEFT notes the heads, which it trains anyway, of all models.
            of_file = [module for module in of_file if module not in HEADS] or None
        if given is not None and of_file is not None and given != of_file:
            raise UserError(f"{name}: --{name} and {OPTION} both give it; leave one of them out.")
        fields[name] = of_file if given is None else given
    parameters = fields.get("target_parameters") or content.get("target_parameters")
    if fields.get("target_modules") in ([], "") and not parameters:
        raise UserError(f"{OPTION}: target_modules is empty; write some, or leave it out.")
    return dict(one_word(fields))


def _name_of(peft_type: Any) -> str:
    known = [kind.name for kind in ALL_PEFT_KINDS.values() if kind.peft_type.value == peft_type]
    return known[0] if known and known[0] in KINDS else ANY


def _unknown(name: str, known: frozenset[str], kind: PeftKind) -> str:
    close = nearest(name, known)
    advice = f"write {close}" if close else "leave it out"
    return f"{kind.config_type.__name__} of PEFT has no field {name!r}; {advice}."


def _types_of(config_type: type) -> dict[str, Any]:
    """Return the types that fields may have in JSON."""
    try:
        declared = get_type_hints(config_type)
    except (NameError, TypeError):
        # A name that PEFT imports for type checkers alone.
        declared = {}
    of_json = {name: _of_json(hint) for name, hint in declared.items()}
    loose = FIELDS_OF_PEFT if issubclass(config_type, LoraConfig) else {}
    patterns = {name: hint for name, hint in _PATTERNS.items() if of_json.get(name) == dict | None}
    return {**of_json, **{name: loose[name] for name in loose if name in of_json}, **patterns}


def _any_of(hints: Iterable[Any]) -> Any:
    return reduce(operator.or_, hints)


def _of_json(hint: Any) -> Any:
    """Return the type that a value of this type has in a JSON file."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return _any_of(_of_json(part) for part in parts)
    if kind is Literal:
        # PEFT declares patterns among some, such as pissa_niter_[number of iters].
        has_pattern = any(isinstance(part, str) and "[" in part for part in parts)
        return _any_of(map(type, parts)) if has_pattern else hint
    if kind in (list, tuple, set):
        return types.GenericAlias(list, (_any_of(map(_of_json, parts)),)) if parts else list
    if kind is dict:
        # JSON has no other names.
        return types.GenericAlias(dict, (str, _of_json(parts[1]))) if parts else dict
    if isinstance(kind, type) and issubclass(kind, Enum):
        return str
    return kind if kind in _OF_JSON else Any
