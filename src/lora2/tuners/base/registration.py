"""How PEFT gets to know our methods, in memory: its registry, and functions without a hook.

`PeftType` is a closed enumeration, and `register_peft_method` refuses a name that is not in it.
So the member is added first, as the enum machinery itself would have made it. Nothing is written
to disk; a PEFT that ships such a method itself one day is left as it is.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from peft import mapping
from peft.utils import PeftType, register_peft_method


def add_peft_type(name: str) -> None:
    """Make `PeftType.<NAME>` exist."""
    member_name = name.upper()
    if member_name in PeftType.__members__:
        return
    member: Any = str.__new__(PeftType, member_name)
    member._name_ = member_name
    member._value_ = member_name
    member._sort_order_ = len(PeftType.__members__)
    PeftType._member_names_.append(member_name)
    PeftType._member_map_[member_name] = member
    PeftType._value2member_map_[member_name] = member
    type.__setattr__(PeftType, member_name, member)


def register(name: str, config_cls: type, model_cls: type) -> None:
    """Register a method with PEFT once; a second call, or a PEFT that knows it, is no error.

    Must run before a config of the method is made.
    """
    add_peft_type(name)
    if PeftType[name.upper()] not in mapping.PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)


def wrap_once(owner: Any, name: str, make: Callable[[Callable[..., Any]], Any]) -> None:
    """Replace a function of PEFT by what `make` makes of it.

    owner: the module or class that holds it.
    A second call, or a PEFT that has no such function, is no error.
    """
    original = getattr(owner, name, None)
    if original is None or getattr(original, "knows_lora2", False):
        return
    replacement: Any = wraps(original)(make(original))
    replacement.knows_lora2 = True
    setattr(owner, name, replacement)
