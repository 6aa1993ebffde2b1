"""What the configurations of all our adapters have: where the adapter goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

from peft.config import PeftConfig
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND as ALL_LINEAR

from lora2.errors import UserError
from lora2.tuners.base.config.config_types import check_types
from lora2.tuners.base.config.field_checks import check_regular_expression
from lora2.tuners.base.config.unknown_fields import check_known_fields
from lora2.tuners.base.token_rows.checks import checked_indices


@dataclass
class TargetConfig(PeftConfig):
    """Which modules get an adapter, and which others are trained whole; the names are PEFT's.

    Raises:
        UserError: fields that contradict each other, or that do not exist; the sentence says
            what to write instead.
    """

    label: ClassVar[str]
    """The method's name in tables and model cards."""

    pruned_parts: ClassVar[str] = "ranks"
    """What the layers of the method lose when they are pruned."""

    merges: ClassVar[bool] = True
    """Whether an adapter is a change of weights, which can be put into them."""

    adapts_parameters: ClassVar[bool] = False
    """Whether the method adapts parameters, which a field target_parameters names."""

    fields_of_others: ClassVar[Mapping[str, str]] = {}
    """What to write instead of a field of another method, by its name."""

    needed_fields: ClassVar[tuple[str, ...]] = ()
    """What a saved config must have: by a default, the adapter would compute something else."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names (or one regular expression) of the modules to adapt, or 'all-linear'. "
            "None: the default of the architecture."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names or regular expression of modules to leave alone."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt; None adapts all."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None,
        metadata={"help": "Name of the list of layers, if layers_to_transform needs it."},
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Other modules to train and save whole, such as a new head."},
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={
            "help": "Ids of tokens whose rows of the embedding are trained and saved whole, and "
            "those of a head that shares its weight; or lists of ids by name of the module."
        },
    )

    def __new__(cls, *values: Any, **given: Any) -> Self:
        """Check the names of the fields, before `__init__` would refuse one without a reason."""
        known = [each.name for each in fields(cls) if each.init]
        check_known_fields(cls, given, known, cls.fields_of_others)
        return super().__new__(cls)

    def sizes_in_words(self) -> str:
        """Return the fields that say how large an adapter is, and how it is scaled."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        check_types(self)
        super().__post_init__()
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        pattern = self.target_modules
        is_regular_expression = isinstance(pattern, str) and pattern != ALL_LINEAR
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), str):
                check_regular_expression(name, getattr(self, name))
        self.trainable_token_indices = checked_indices(self.trainable_token_indices)
        patterns = self.layers_pattern or []
        for each_pattern in [patterns] if isinstance(patterns, str) else patterns:
            check_regular_expression("layers_pattern", each_pattern)
        if is_regular_expression and self.layers_to_transform is not None:
            raise UserError(
                f"layers_to_transform cannot be combined with target_modules={pattern!r}, a "
                "regular expression: put the layers into it."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise UserError(
                f"layers_pattern={self.layers_pattern!r} does nothing without "
                "layers_to_transform: give the layers, or leave both out."
            )


def _as_set(names: Any) -> Any:
    return set(names) if isinstance(names, list | tuple) else names
