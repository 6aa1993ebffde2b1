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

_MODULES = (head, bitfit, full, bottleneck, prompt, lora, adalora, sora, lora2)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (*(module.METHOD for module in _MODULES), *peft_method.METHODS)
}
