"""All methods by name."""

from __future__ import annotations

from lora2.training.methods import (
    adalora,
    bitfit,
    bottleneck,
    full,
    head,
    lora,
    lora2,
    peft_method,
    prompt,
    sora,
)
from lora2.training.methods.method import Method
from lora2.training.options.arguments import RunSettings

_MODULES = (head, bitfit, full, bottleneck, prompt, lora, adalora, sora, lora2)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (*(module.METHOD for module in _MODULES), *peft_method.METHODS)
}


def method_of(settings: RunSettings) -> Method:
    """Return the method of a run."""
    return METHODS[settings.run.method]
