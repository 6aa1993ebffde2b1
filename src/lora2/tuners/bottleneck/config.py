"""The configuration of a bottleneck adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from peft.utils import PeftType

from lora2.errors import UserError
from lora2.tuners.base.config.field_checks import check_choice, check_float32, check_whole
from lora2.tuners.base.config.target_config import TargetConfig

Activation = Literal["gelu", "relu"]


@dataclass
class BottleneckConfig(TargetConfig):
    """Configuration of a bottleneck adapter, h + U f(D h + b_D) + b_U.

    Raises:
        UserError: a value is invalid; the sentence says what to write instead.
    """

    label: ClassVar[str] = "bottleneck"
    merges: ClassVar[bool] = False
    fields_of_others: ClassVar[Mapping[str, str]] = {
        "r": "the width is called bottleneck_size here",
        "k": "the width is called bottleneck_size here",
        "lora_alpha": "the change is not scaled, so leave it out",
        "alpha_pattern": "the change is not scaled, so leave it out",
        "lora_dropout": "the adapter has no dropout of its own, so leave it out",
        "init_lora_weights": "the start is set by init_std here",
        "init_weights": "the start is set by init_std here",
        "use_rslora": "the change is not scaled, so leave it out",
    }
    needed_fields: ClassVar[tuple[str, ...]] = ("bottleneck_size", "activation")

    bottleneck_size: int = field(default=8, metadata={"help": "Width m of the bottleneck."})
    activation: Activation = field(default="gelu", metadata={"help": "The function f."})
    init_std: float = field(
        default=0.01,
        metadata={
            "help": "Standard deviation of D and U at the start, truncated at two of it: near the "
            "identity, as in the paper, not at it."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names (or one regular expression) of the linear layers after which an "
            "adapter is put. None: the output projections of both sub-layers."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "Other modules to train and save whole. The paper trains the layer "
            "normalisations too: name them here."
        },
    )

    def sizes_in_words(self) -> str:
        """Return the width."""
        return f"bottleneck_size = {self.bottleneck_size}"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["BOTTLENECK"]
        check_whole("bottleneck_size", self.bottleneck_size)
        check_choice("activation", self.activation, get_args(Activation))
        if self.init_std < 0:
            raise UserError(f"init_std={self.init_std} must not be negative; 0.01 is the paper's.")
        check_float32("init_std", self.init_std, default=0.01, may_be_zero=True)
