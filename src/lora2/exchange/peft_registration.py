"""Makes PEFT know our methods: their names, conversions, model cards, and roles in LoRA+."""

from __future__ import annotations

from lora2.exchange.model_card.file import make_cards_ours
from lora2.exchange.peft_conversion import make_conversion_exact
from lora2.trainers.loraplus import make_loraplus_know_roles
from lora2.tuners.base.registration import register
from lora2.tuners.bottleneck import BottleneckConfig, BottleneckModel
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.model import Lora2Model
from lora2.tuners.sora import SoraConfig, SoraModel


def make_known_to_peft() -> None:
    """Register all methods with PEFT, and change its functions; a second call is no error."""
    register("lora2", Lora2Config, Lora2Model)
    register("sora", SoraConfig, SoraModel)
    register("bottleneck", BottleneckConfig, BottleneckModel)
    make_conversion_exact()
    make_cards_ours()
    make_loraplus_know_roles()
