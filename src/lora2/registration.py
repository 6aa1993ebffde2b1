"""LoRA² as a PEFT method: everything that touches PEFT's registry, in memory and in one file.

`PeftType` is a closed enumeration, and `register_peft_method` refuses a name that is not in it.
So the member is added first, as the enum machinery itself would have made it. Nothing is written
to disk; a PEFT that ships LoRA² itself one day is left as it is.
"""

from typing import Any

from peft import mapping
from peft.utils import PeftType, register_peft_method

NAME = "lora2"
_MEMBER = NAME.upper()


def add_peft_type() -> None:
    """Make `PeftType.LORA2` exist. Must run before a config class refers to it."""
    if _MEMBER in PeftType.__members__:
        return
    member: Any = str.__new__(PeftType, _MEMBER)
    member._name_ = _MEMBER
    member._value_ = _MEMBER
    member._sort_order_ = len(PeftType.__members__)
    PeftType._member_names_.append(_MEMBER)
    PeftType._member_map_[_MEMBER] = member
    PeftType._value2member_map_[_MEMBER] = member
    type.__setattr__(PeftType, _MEMBER, member)


def register(config_cls: type, model_cls: type) -> None:
    """Register the method with PEFT once; a second call, or a PEFT that knows it, is no error."""
    if PeftType[_MEMBER] not in mapping.PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=NAME, config_cls=config_cls, model_cls=model_cls)
