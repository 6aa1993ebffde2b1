"""Makes PEFT know the methods of this package: their names, conversions and model cards."""

from __future__ import annotations

from lora2.exchange import peft_conversion
from lora2.exchange.model_card import file as model_card_file
from lora2.tuners.base.registration import register
from lora2.tuners.bottleneck import BottleneckConfig, BottleneckModel
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.model import Lora2Model
from lora2.tuners.sora import SoraConfig, SoraModel


def make_known_to_peft() -> None:
    """Register all methods with PEFT; a second call is no error."""
    register("lora2", Lora2Config, Lora2Model)
    register("sora", SoraConfig, SoraModel)
    register("bottleneck", BottleneckConfig, BottleneckModel)
    peft_conversion.install()
    model_card_file.install()
