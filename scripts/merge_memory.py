"""Peak memory of `export_merged` on a random Llama of 1.1 billion parameters, in bfloat16.

    python scripts/merge_memory.py

The sizes are TinyLlama's. Prints the weights' size and the peak of resident memory over what the
process held before the model was made, from the export's start to its end, reading back included.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile

# Before torch is loaded: memory that is freed leaves the process, so that what is resident is what
# is alive, not what the C library keeps for later.
if os.environ.get("MALLOC_MMAP_THRESHOLD_") != "65536":
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    os.execv(sys.executable, [sys.executable, *sys.argv])

import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lora2 import Lora2Config, export_merged
from lora2.lab.benchmarks.resident import PeakResidentSet, resident_bytes

SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}


def main() -> None:
    """Measure once and print."""
    before = resident_bytes()
    torch.set_default_dtype(torch.bfloat16)
    base = LlamaForCausalLM(LlamaConfig(**SIZES))
    torch.set_default_dtype(torch.float32)
    size = sum(p.numel() * p.element_size() for p in base.parameters())
    model = get_peft_model(base, Lora2Config(task_type="CAUSAL_LM", k=8, init_weights=False))
    del base
    gc.collect()
    folder = tempfile.mkdtemp(prefix="merge-memory-")
    try:
        watched = PeakResidentSet()
        export = export_merged(model, os.path.join(folder, "merged"))
        peak = watched.finish() - before
    finally:
        shutil.rmtree(folder)
    print(f"weights {size / 2**30:.2f} GiB, peak {peak / 2**30:.2f} GiB, {peak / size:.2f} copies")
    print(f"largest difference of the logits {export.difference:.1e} of the largest")


if __name__ == "__main__":
    main()
