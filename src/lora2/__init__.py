"""LoRA²: multi-scale low-rank adaptation for the Hugging Face stack.

Importing this package makes LoRA² known to PEFT, and the methods it is compared with that PEFT does
not have; do it before loading an adapter of theirs.
"""

from lora2.errors import NumericalError, UserError
from lora2.exchange import peft_conversion
from lora2.exchange.from_lora import import_lora
from lora2.exchange.gguf import export_gguf
from lora2.exchange.lora import export_lora
from lora2.exchange.merged import export_merged
from lora2.exchange.model_card import file as model_card_file
from lora2.trainers.lora2_callback import Lora2Callback
from lora2.trainers.loraplus import loraplus_groups
from lora2.trainers.sora_callback import SoraCallback
from lora2.tuners.base.registration import register
from lora2.tuners.bottleneck import BottleneckConfig, BottleneckModel
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.gradient_start import start_from_gradients
from lora2.tuners.lora2.model import Lora2Model
from lora2.tuners.lora2.saving import compact_adapter
from lora2.tuners.lora2.training_hook import weighted_penalty
from lora2.tuners.lora2.truncation import truncate_adapter
from lora2.tuners.sora import SoraConfig, SoraModel
from lora2_cli.version import __version__

register("lora2", Lora2Config, Lora2Model)
register("sora", SoraConfig, SoraModel)
register("bottleneck", BottleneckConfig, BottleneckModel)
peft_conversion.install()
model_card_file.install()

__all__ = [
    "BottleneckConfig",
    "Lora2Callback",
    "Lora2Config",
    "Lora2Model",
    "NumericalError",
    "RankAllocator",
    "SoraCallback",
    "SoraConfig",
    "UserError",
    "__version__",
    "compact_adapter",
    "export_gguf",
    "export_lora",
    "export_merged",
    "import_lora",
    "loraplus_groups",
    "start_from_gradients",
    "truncate_adapter",
    "weighted_penalty",
]
