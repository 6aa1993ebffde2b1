"""Bottleneck adapters (Houlsby et al. 2019) as a PEFT method.

After the output projection of each sub-layer, before the sum with its input, is

    h ← h + U f(D h + b_D) + b_U        D [m, d], U [d, m]

"Parameter-Efficient Transfer Learning for NLP" (arXiv 1902.00751), section 2.1. It is not linear in
h, so it can be neither merged nor exported as LoRA.
"""

from lora2.tuners.bottleneck.config import BottleneckConfig
from lora2.tuners.bottleneck.model import BottleneckModel

__all__ = ["BottleneckConfig", "BottleneckModel"]
