"""The options of methods: fields of their configs, and what has no config.

They are derived, so that an option exists once, where its owner declares it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from peft.config import PeftConfig

from lora2.support.ranges import SIZE, Range
from lora2.training.options.derived_options import FILE, all_but, derived
from lora2.tuners.bottleneck import BottleneckConfig
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.sora import SoraConfig


@dataclass
class StartArguments:
    """The options of where an adapter of LoRA² starts."""

    start_from: str | None = field(
        default=None,
        metadata={
            "help": "Folder of an adapter to continue from, of --method lora2: one of LoRA², or a "
            "LoRA or AdaLoRA, which becomes one. It brings its k, its r and its modules; the "
            "budget and its schedule are those given here."
        },
    )


@dataclass
class PromptArguments:
    """The options of prompt tuning."""

    virtual_tokens: int = field(
        default=20,
        metadata={
            "range": SIZE,
            "help": "Trained vectors in front of the text, of --method prompt.",
        },
    )


@dataclass
class PeftArguments:
    """The options of methods that are made by PEFT's registry."""

    peft_config: dict[str, Any] | None = field(
        default=None,
        metadata={
            FILE: True,
            "help": "Fields of PEFT's config of the method, as adapter_config.json has them: a "
            "JSON file, or a JSON object.",
        },
    )
    loraplus_lr_ratio: float = field(
        default=16.0,
        metadata={
            "range": Range(1),
            "help": "Of --method loraplus: the learning rate of B divided by that of A.",
        },
    )


# PEFT's own bookkeeping, and the step count that the callback learns by itself.
_ADAPTER_LEFT_OUT = frozenset(f.name for f in dataclasses.fields(PeftConfig)) | {"total_step"}

AdapterArguments = derived(
    "AdapterArguments", Lora2Config, _ADAPTER_LEFT_OUT, "The adapter: the fields of Lora2Config."
)
SoraArguments = derived(
    "SoraArguments",
    SoraConfig,
    all_but(SoraConfig, "threshold", "threshold_schedule", "max_threshold", "threshold_stages"),
    "What SoRA has in addition to the fields of Lora2Config.",
)
BottleneckArguments = derived(
    "BottleneckArguments",
    BottleneckConfig,
    all_but(BottleneckConfig, "bottleneck_size", "activation"),
    "What bottleneck adapters have in addition to the fields of Lora2Config.",
)

METHOD_GROUPS = (
    AdapterArguments,
    StartArguments,
    SoraArguments,
    BottleneckArguments,
    PromptArguments,
    PeftArguments,
)
"""The options of methods. What several methods have is declared by the first of the groups."""
