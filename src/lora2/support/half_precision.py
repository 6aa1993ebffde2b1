"""Which half-precision dtypes this machine's CPU has no matrix kernel for."""

import torch


def _slow_on_cpu() -> frozenset[torch.dtype]:
    # torch has no public question for it; a build without oneDNN lacks the answers too.
    answers = {
        torch.bfloat16: "_is_mkldnn_bf16_supported",
        torch.float16: "_is_mkldnn_fp16_supported",
    }
    if not torch.backends.mkldnn.is_available():
        return frozenset(answers)
    return frozenset(
        dtype for dtype, name in answers.items() if not getattr(torch.ops.mkldnn, name)()
    )


SLOW_ON_CPU: frozenset[torch.dtype] = _slow_on_cpu()
"""Products of these dtypes take many times as long as in float32 on this machine's CPU."""
