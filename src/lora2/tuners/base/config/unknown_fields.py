"""What to write instead of a config field that exists in another method only, or nowhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from peft import AdaLoraConfig, LoraConfig

from lora2.errors import UnknownFieldError
from lora2.support.nearest_name import nearest

_OWN_START = "the adapter has starts of its own, so leave it out"
_NO_SUCH_FORM = "this form of LoRA does not exist here, so leave it out"

# Fields of PEFT's LoRA that none of our configs has.
_LORA_FIELDS = {
    "alpha_pattern": "one lora_alpha is for all modules, so leave it out",
    "arrow_config": _NO_SUCH_FORM,
    "alora_invocation_tokens": _NO_SUCH_FORM,
    "bias": "no bias is trained, as with bias='none' of LoRA, so leave it out, or name modules to "
    "train with their biases in modules_to_save",
    "corda_config": _OWN_START,
    "ensure_weight_tying": "tied weights are adapted at each module of target_modules by itself, "
    "so leave it out",
    "eva_config": _OWN_START,
    "fan_in_fan_out": "the layout of a weight is found out from its layer, so leave it out",
    "init_lora_weights": "it is called init_weights here, with values of its own",
    "kasa_config": _NO_SUCH_FORM,
    "layer_replication": "layers are not replicated, so leave it out",
    "loftq_config": _OWN_START,
    "lora_bias": "the adapter has no bias, so leave it out",
    "lora_ga_config": _OWN_START,
    "megatron_config": "layers of Megatron are not adapted, so leave it out",
    "megatron_core": "layers of Megatron are not adapted, so leave it out",
    "monteclora_config": _NO_SUCH_FORM,
    "qalora_group_size": _NO_SUCH_FORM,
    "runtime_config": "it has no settings of the run, so leave it out",
    "target_parameters": "modules are adapted and not parameters, so name modules in "
    "target_modules",
    "use_bdlora": _NO_SUCH_FORM,
    "use_dora": "there is no form of it with DoRA's magnitudes, so leave it out",
    "use_qalora": _NO_SUCH_FORM,
    "velora_config": _NO_SUCH_FORM,
}
_FIELDS_OF_PEFT = {
    each.name for config in (LoraConfig, AdaLoraConfig) for each in dataclasses.fields(config)
}


def check_known_fields(
    config_type: type, given: Mapping[str, Any], known: Collection[str], advice: Mapping[str, str]
) -> None:
    """Check that a config has all fields that it is given.

    advice: what to write instead, by field, for this type of config.

    Raises:
        UnknownFieldError: it has not, with a clause for each of those fields.
    """
    clauses = [
        f"{name}={value!r}: {_clause(name, known, advice)}"
        for name, value in given.items()
        if name not in known
    ]
    if clauses:
        # PEFT looks for these words when it reads a config file of a later version.
        raise UnknownFieldError(
            f"{config_type.__name__} got an unexpected keyword argument, {'; '.join(clauses)}."
        )


def _clause(name: str, known: Collection[str], advice: Mapping[str, str]) -> str:
    if name in advice:
        return advice[name]
    if name in _LORA_FIELDS:
        return _LORA_FIELDS[name]
    if name in _FIELDS_OF_PEFT:
        return "it is a field of another method, so leave it out"
    close = nearest(name, known)
    if close:
        return f"there is no such field, but there is {close}"
    return "there is no such field, so leave it out"
