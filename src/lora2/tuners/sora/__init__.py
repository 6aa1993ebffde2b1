"""SoRA (Ding et al. 2023) as a PEFT method: LoRA with a gate on each rank, many driven to zero.

    A [r, d_in], g [r], B [d_out, r]:   W + (lora_alpha / r) · B diag(g) A

After each optimizer step the gates are soft-thresholded; at the end, ranks whose gate is zero are
dropped, and what is left is a LoRA of the rank that each matrix needs.
"""

from lora2.tuners.sora.config import SoraConfig
from lora2.tuners.sora.gates import GateThreshold, prune_gates
from lora2.tuners.sora.model import SoraModel

__all__ = ["GateThreshold", "SoraConfig", "SoraModel", "prune_gates"]
