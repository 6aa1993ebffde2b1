"""The methods of PEFT's own registry that adapt modules, by the names that `--method` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from torch.optim import Optimizer

from lora2.tuners.base.config.target_config import TargetConfig

if TYPE_CHECKING:
    from transformers import TrainingArguments

ANY = "peft"
"""The name of the method whose `peft_config` names PEFT's method."""

UNSAVED_STATE = ("monteclora_config", "save_only_topk_weights")
"""Fields of PEFT's configs with which its checkpoints lack something that training needs to resume.

They are MonteCLoRA's noise, which is drawn ahead, and most of VB-LoRA's logits.
"""

# Those of PEFT that have options of their own here.
_WITH_OWN_OPTIONS = ("lora", "adalora")


@dataclass(frozen=True)
class PeftKind:
    """One method of PEFT, or a variant of its LoRA.

    Attributes:
        name: as users write it.
        label: as tables print it.
        peft_type: PEFT's name of it.
        fields: the fields of PEFT's config that make the variant.
        source: where it was published; PEFT's config has it for the others.
        options: names of options of its own, apart from PEFT's config.
        make_optimizer: makes its optimizer, given the model, the trainer's arguments and options
            of methods; None leaves it to the trainer.
    """

    name: str
    label: str
    peft_type: PeftType
    fields: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    options: tuple[str, ...] = ()
    make_optimizer: Callable[[Any, TrainingArguments, Mapping[str, Any]], Optimizer] | None = None

    @property
    def config_type(self) -> type[PeftConfig]:
        """PEFT's config of the method."""
        config_type: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[self.peft_type]
        return config_type

    @property
    def tuner(self) -> Any:
        """PEFT's tuner of the method, a class."""
        return PEFT_TYPE_TO_TUNER_MAPPING[self.peft_type]

    @property
    def allocates(self) -> bool:
        """Whether PEFT is to be called after each step, and keeps a state that it never saves."""
        return hasattr(self.tuner, "update_and_allocate")


def field_names(config_type: type) -> frozenset[str]:
    """Return the names of the fields that a config can be given."""
    return frozenset(each.name for each in dataclasses.fields(config_type) if each.init)


def has_own_method(peft_type: str) -> bool:
    """Whether a method of PEFT's registry is trained here with more than its config."""
    # A program may have registered a method of its own by a text.
    named = (each for each in PEFT_TYPE_TO_CONFIG_MAPPING if each == peft_type)
    return any(
        ALL_PEFT_KINDS[each].allocates if each in ALL_PEFT_KINDS else _is_of_this_package(each)
        for each in named
    )


def _is_of_this_package(peft_type: PeftType) -> bool:
    return issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type], TargetConfig)


def _of_registry() -> dict[str, PeftKind]:
    """Return what adapts modules and is not of this package, by name."""
    return {
        peft_type.value.lower(): PeftKind(
            peft_type.value.lower(), config_type.__name__.removesuffix("Config"), peft_type
        )
        for peft_type, config_type in PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if "target_modules" in field_names(config_type) and not _is_of_this_package(peft_type)
    }


def _variant(name: str, label: str, source: str, **fields: Any) -> PeftKind:
    return PeftKind(name, label, PeftType.LORA, fields, source)


def _loraplus_optimizer(
    model: Any, arguments: TrainingArguments, options: Mapping[str, Any]
) -> Optimizer:
    # They load the trainer and datasets, which the registry does not need.
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    made, fields = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    optimizer: Optimizer = create_loraplus_optimizer(
        model=model,
        optimizer_cls=made,
        loraplus_lr_ratio=options["loraplus_lr_ratio"],
        loraplus_weight_decay=arguments.weight_decay,
        # PEFT's default is 1e-6, a rate at which an adapted embedding hardly learns.
        loraplus_lr_embedding=arguments.learning_rate,
        **fields,
    )
    return optimizer


# PEFT has no name for them: they are values of fields of LoraConfig, or, of LoRA+, an optimizer.
_VARIANTS = (
    _variant("dora", "DoRA", "Liu et al. 2024, arXiv 2402.09353", use_dora=True),
    _variant("rslora", "rsLoRA", "Kalajdzievski 2023, arXiv 2312.03732", use_rslora=True),
    PeftKind(
        "loraplus",
        "LoRA+",
        PeftType.LORA,
        source="Hayou et al. 2024, arXiv 2402.12354",
        options=("loraplus_lr_ratio",),
        make_optimizer=_loraplus_optimizer,
    ),
    _variant("pissa", "PiSSA", "Meng et al. 2024, arXiv 2404.02948", init_lora_weights="pissa"),
    _variant(
        "olora", "OLoRA", "Büyükakyüz 2024, arXiv 2406.01775", init_lora_weights="olora"
    ),
)  # fmt: skip

ALL_PEFT_KINDS: Mapping[PeftType, PeftKind] = {
    kind.peft_type: kind for kind in _of_registry().values()
}
"""All of PEFT's methods that adapt modules, by PEFT's name."""

KINDS: Mapping[str, PeftKind] = {
    name: kind for name, kind in _of_registry().items() if name not in _WITH_OWN_OPTIONS
} | {kind.name: kind for kind in _VARIANTS}
"""Those that have no options of their own here, and the variants of LoRA, by name."""
