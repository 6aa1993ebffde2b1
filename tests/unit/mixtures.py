"""Tiny mixtures of experts as data: what of each is a parameter, and what it was called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from lora2 import Lora2Config
from lora2.tuners.base.layers.experts import parameter_of
from unit.models import layers_of

EXPERTS = 4
PARAMETERS = ["experts.gate_up_proj", "experts.down_proj"]
_SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class Mixture:
    """A model: how to make it, and how many layers of it have experts.

    Attributes:
        old_names: what their matrices were called while they were modules; () if they never were.
    """

    name: str
    make: Callable[[], nn.Module]
    layers: int
    old_names: tuple[str, ...] = ()

    def model(self) -> Any:
        """The model with fixed weights, in evaluation mode."""
        torch.manual_seed(0)
        return self.make().eval()

    def adapted(self, **fields: Any) -> PeftModel:
        """The model with an adapter on one projection and all experts, a random one by default."""
        defaults = {
            "k": 3,
            "init_r": 3,
            "lora_alpha": 16.0,
            "target_modules": ["o_proj"],
            "target_parameters": PARAMETERS,
            "init_weights": False,
        }
        model = self.model()
        torch.manual_seed(1)
        return get_peft_model(model, Lora2Config(**(defaults | fields))).eval()


def _mixtral() -> nn.Module:
    return MixtralForCausalLM(
        MixtralConfig(**_SIZES, intermediate_size=12, num_local_experts=EXPERTS)
    )


def _qwen() -> nn.Module:
    # The first layer is dense, with modules of the names that the experts' matrices had.
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **_SIZES, head_dim=8, intermediate_size=20, moe_intermediate_size=12,
            num_experts=EXPERTS, mlp_only_layers=[0],
        )
    )  # fmt: skip


def _gpt_oss() -> nn.Module:
    return GptOssForCausalLM(
        GptOssConfig(
            **_SIZES, head_dim=8, intermediate_size=12, num_local_experts=EXPERTS,
            layer_types=["full_attention"] * 2,
        )
    )  # fmt: skip


def _deepseek() -> nn.Module:
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **_SIZES, intermediate_size=20, moe_intermediate_size=12, n_routed_experts=EXPERTS,
            n_group=2, topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8,
            qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
        )
    )  # fmt: skip


class TwoExperts(nn.Module):
    """A module with two experts of one matrix; x [batch, 4] → [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = _Stack()

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(x)


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, 4))
        self.width = 4

    def forward(self, x: Tensor) -> Tensor:
        return sum(x @ matrix.mT for matrix in self.weight)


_GATED = ("gate_proj", "up_proj", "down_proj")
MIXTRAL = Mixture("mixtral", _mixtral, 2, ("w1", "w2", "w3"))
QWEN = Mixture("qwen3_moe", _qwen, 1, _GATED)
GPT_OSS = Mixture("gpt_oss", _gpt_oss, 2)
DEEPSEEK = Mixture("deepseek_v3", _deepseek, 1, _GATED)
MIXTURES = [MIXTRAL, QWEN, GPT_OSS, DEEPSEEK]


def tokens(rows: int = 3) -> Tensor:
    """Rows of seven tokens."""
    return torch.randint(0, 40, (rows, 7), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    """What a causal language model computes for `tokens`."""
    return model(tokens()).logits


def of_experts(model: nn.Module) -> dict[str, nn.Module]:
    """The adapted layers that are matrices of experts, by module name."""
    return {name: layer for name, layer in layers_of(model).items() if parameter_of(name)}
