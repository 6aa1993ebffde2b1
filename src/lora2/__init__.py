"""LoRA²: multi-scale low-rank adaptation for the Hugging Face stack.

Importing this package makes LoRA² known to PEFT; do it before loading a LoRA² adapter.
"""

from lora2.allocator import RankAllocator
from lora2.config import Lora2Config
from lora2.errors import UserError
from lora2.model import Lora2Model
from lora2.registration import add_peft_type, register
from lora2.saving import compact_adapter
from lora2.trainer import Lora2Callback

add_peft_type()
register(Lora2Config, Lora2Model)

__version__ = "0.1.0"

__all__ = [
    "Lora2Callback",
    "Lora2Config",
    "Lora2Model",
    "RankAllocator",
    "UserError",
    "compact_adapter",
]
