"""FSDP2 and DistributedDataParallel around an adapter, or elsewhere, in a group of one process."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from lora2 import Lora2Config, UserError
from lora2.tuners.base.distributed.dtensors import is_fully_sharded
from lora2.tuners.lora2 import forward_hook
from unit.models import gradient_checkpointing, layers_of
from unit.tiny_transformers import tiny_llama

pytestmark = pytest.mark.usefixtures("process_group")


def adapted(**fields) -> PeftModel:
    config = Lora2Config(task_type="CAUSAL_LM", k=2, init_r=2, **fields)
    return get_peft_model(tiny_llama(), config).train()


def in_half_precision() -> PeftModel:
    config = Lora2Config(task_type="CAUSAL_LM", k=2, init_r=2)
    return get_peft_model(
        tiny_llama().to(torch.bfloat16), config, autocast_adapter_dtype=False
    ).train()


def train_two_steps(model: nn.Module) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    tokens = torch.arange(8)[None]
    for _ in range(2):
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_model_is_not_taken_for_sharded_because_another_is() -> None:
    fully_shard(nn.Linear(4, 4))
    model = in_half_precision()
    train_two_steps(model)
    for layer in layers_of(model).values():
        assert (layer.lora2_lambda["default"] != 1).all()
        assert "default" in layer.lora2_prepared


@pytest.mark.parametrize("where", ["around", "itself", "blocks"])
def test_each_layer_of_a_sharded_model_computes_its_own_factors(where: str) -> None:
    model = adapted()
    base = model.get_base_model()
    train_two_steps(model)
    assert not is_fully_sharded(base)
    parts = {"around": [model], "itself": [base], "blocks": base.model.layers}
    for part in parts[where]:
        fully_shard(part)
    assert is_fully_sharded(base)
    for layer in layers_of(model).values():
        layer.lora2_prepared.clear()
    train_two_steps(model)
    assert not any(layer.lora2_prepared for layer in layers_of(model).values())


def test_half_precision_in_which_nothing_can_be_trained_is_refused_once_it_is_sharded() -> None:
    model = in_half_precision()
    for block in model.get_base_model().model.layers:
        fully_shard(block)
    with pytest.raises(UserError, match=r"^autocast_adapter_dtype: .* is in bfloat16"):
        train_two_steps(model)


NOT_BATCHED = {
    "one matrix": {"target_modules": r".*layers\.1\.self_attn\.q_proj"},
    "a width each": {
        "target_modules": ["q_proj"],
        "k_pattern": {"layers.0.self_attn.q_proj": 3},
        "rank_pattern": {"layers.0.self_attn.q_proj": 3},
    },
    "batched": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("case", NOT_BATCHED)
def test_a_penalty_joins_the_gradients_of_reentrant_checkpointing(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DistributedDataParallel counts gradients in one process, too.
    monkeypatch.setattr(forward_hook, "are_several", lambda: True)
    model = adapted(orthogonality="penalty", **NOT_BATCHED[case])
    with gradient_checkpointing(model, use_reentrant=True):
        train_two_steps(DistributedDataParallel(model))
