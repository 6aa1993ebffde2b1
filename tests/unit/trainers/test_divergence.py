"""What watches the gradients of a training, between its steps."""

from typing import Any

import pytest
import torch
from peft import get_peft_model

from lora2 import Lora2Config
from lora2.trainers.divergence import GradientWatch
from unit.models import bert_batch, tiny_bert


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_a_watched_model_is_evaluated(dtype: torch.dtype, without_gradients: Any) -> None:
    model = get_peft_model(tiny_bert().to(dtype), Lora2Config(task_type="SEQ_CLS", k=2, init_r=2))
    watch = GradientWatch(model, "default")
    for _ in range(2):
        model.train()(**bert_batch()).loss.backward()
        watch.check()
        with without_gradients():
            assert torch.isfinite(model.eval()(**bert_batch()).loss)
