"""LoRA²: multi-scale low-rank adaptation for the Hugging Face stack.

Importing this package makes LoRA² known to PEFT, and the methods it is compared with that PEFT does
not have; do it before loading an adapter of theirs.
"""

from lora2 import conversion
from lora2.allocator import RankAllocator
from lora2.bottleneck import BottleneckConfig, BottleneckModel
from lora2.config import Lora2Config
from lora2.errors import UserError
from lora2.export.gguf import export_gguf
from lora2.export.lora import export_lora
from lora2.export.merged import export_merged
from lora2.importing import import_lora
from lora2.model import Lora2Model
from lora2.model_card import file as model_card_file
from lora2.registration import register
from lora2.saving import compact_adapter
from lora2.sora import SoraCallback, SoraConfig, SoraModel
from lora2.trainer import Lora2Callback
from lora2.training_hook import weighted_penalty

register("lora2", Lora2Config, Lora2Model)
register("sora", SoraConfig, SoraModel)
register("bottleneck", BottleneckConfig, BottleneckModel)
conversion.install()
model_card_file.install()

__version__ = "0.1.0"

__all__ = [
    "BottleneckConfig",
    "Lora2Callback",
    "Lora2Config",
    "Lora2Model",
    "RankAllocator",
    "SoraCallback",
    "SoraConfig",
    "UserError",
    "compact_adapter",
    "export_gguf",
    "export_lora",
    "export_merged",
    "import_lora",
    "weighted_penalty",
]
