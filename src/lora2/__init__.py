"""LoRA²: multi-scale low-rank adaptation for the Hugging Face stack.

Importing this package makes LoRA² known to PEFT, and the methods it is compared with that PEFT does
not have; do it before loading an adapter of theirs.
"""

from lora2.errors import (
    MergedWeightError,
    NumericalError,
    OtherModelError,
    UnknownFieldError,
    UserError,
)
from lora2.exchange.from_lora import import_lora
from lora2.exchange.gguf import export_gguf
from lora2.exchange.lora import export_lora
from lora2.exchange.merged import export_merged
from lora2.exchange.peft_registration import make_known_to_peft
from lora2.trainers.lora2_callback import Lora2Callback
from lora2.trainers.loraplus import loraplus_groups
from lora2.trainers.sora_callback import SoraCallback
from lora2.tuners.bottleneck import BottleneckConfig, BottleneckModel
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.forward_hook import weighted_penalty
from lora2.tuners.lora2.gradient_start import start_from_gradients
from lora2.tuners.lora2.model import Lora2Model
from lora2.tuners.lora2.saving import compact_adapter
from lora2.tuners.lora2.truncation import truncate_adapter
from lora2.tuners.sora import GateThreshold, SoraConfig, SoraModel, prune_gates
from lora2_cli.version import __version__

make_known_to_peft()

__all__ = [
    "BottleneckConfig",
    "BottleneckModel",
    "GateThreshold",
    "Lora2Callback",
    "Lora2Config",
    "Lora2Model",
    "MergedWeightError",
    "NumericalError",
    "OtherModelError",
    "RankAllocator",
    "SoraCallback",
    "SoraConfig",
    "SoraModel",
    "UnknownFieldError",
    "UserError",
    "__version__",
    "compact_adapter",
    "export_gguf",
    "export_lora",
    "export_merged",
    "import_lora",
    "loraplus_groups",
    "prune_gates",
    "start_from_gradients",
    "truncate_adapter",
    "weighted_penalty",
]
