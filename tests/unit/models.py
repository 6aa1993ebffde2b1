"""Tiny models as data, one for each kind of layer, and what tests ask of adapters in a model."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
)

from lora2 import Lora2Config
from lora2.tuners.lora2.layer import Lora2Layer

ADAPTER_FORMS: dict[str, dict[str, Any]] = {
    "exact": {"orthogonality": "exact"},
    "penalty": {"orthogonality": "penalty"},
    "none": {"orthogonality": "none"},
    "k_below_r": {"k": 2, "init_r": 5},
    "k_above_r": {"k": 5, "init_r": 2},
    "k_is_one": {"k": 1, "init_r": 4},
    "pruned": {"k": 3, "init_r": 4},
}
"""Config fields by form. Of "pruned", half of the singular values are set to zero: see `adapt`."""


class Mlp(nn.Module):
    """x [batch, 6] → log-probabilities [batch, 2]."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.lin0 = nn.Linear(6, 10, bias=bias)
        self.lin1 = nn.Linear(10, 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin1(torch.tanh(self.lin0(x))).log_softmax(-1)


class DeepMlp(nn.Module):
    """A list of layers, for layers_to_transform; x [batch, 6] → [batch, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "layers": nn.ModuleList(
                    nn.ModuleDict({"lin0": nn.Linear(6, 6), "lin1": nn.Linear(6, 6)})
                    for _ in range(3)
                )
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.body["layers"]:
            x = torch.tanh(layer["lin1"](torch.tanh(layer["lin0"](x))))
        return x


class EmbeddingModel(nn.Module):
    """Indices [batch, length] → [batch, length, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.emb(x)).log_softmax(-1)


class ConvolutionModel(nn.Module):
    """Signals [batch, 4, *sizes] → log-probabilities [batch, 2], by a convolution of any form."""

    def __init__(self, kind: type[nn.Module] = nn.Conv2d, **options: Any) -> None:
        super().__init__()
        self.conv = kind(4, 8, 3, **options)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).flatten(2).mean(-1)).log_softmax(-1)


class PaddingConv2d(nn.Conv2d):
    """A convolution with a forward of its own, which pads below and on the right first."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (size - 1 for size in self.kernel_size)
        return super().forward(nn.functional.pad(x, (0, width, 0, height)))


class NormalizingConv2d(nn.Conv2d):
    """A convolution that computes with another kernel than its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / (self.weight.std() + 1), self.bias)


class AttentionModel(nn.Module):
    """x [3, length, 6] → log-probabilities [3, length, 2], by attention of any form."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        # torch rounds otherwise on its fast path, which an odd number of heads does not take, and
        # where a weight needs a gradient.
        self.attn = nn.MultiheadAttention(6, 3, **options).requires_grad_(False)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        key, value = x[..., : self.attn.kdim], x[..., : self.attn.vdim]
        output, _ = self.attn(x, key, value)
        return self.head(torch.tanh(output)).log_softmax(-1)


class GptModel(nn.Module):
    """GPT-2, whose layers are transformers' Conv1D: tokens [batch, length] → logits."""

    def __init__(self) -> None:
        super().__init__()
        config = GPT2Config(
            n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=16, tie_word_embeddings=False
        )
        self.gpt = GPT2LMHeadModel(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.gpt(input_ids=x).logits


@dataclass(frozen=True)
class Kind:
    """A kind of target layer: how to make the model and its input, and what to adapt in it."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    target_modules: list[str] | str
    fields: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """The model with fixed weights, in evaluation mode."""
        torch.manual_seed(0)
        return self.make().eval()

    def config(self, form: str = "exact", **fields: Any) -> Lora2Config:
        """An adapter config for this model."""
        defaults: dict[str, Any] = {
            "target_modules": self.target_modules,
            "k": 3,
            "init_r": 3,
            # Not the default, which is a matter of learning: large enough for effects to show.
            "lora_alpha": 16.0,
        }
        return Lora2Config(**(defaults | ADAPTER_FORMS[form] | self.fields | fields))


def rows() -> Tensor:
    """[5, 6] floats."""
    return torch.arange(30.0).view(5, 6) / 30


def tokens() -> Tensor:
    """[3, 5] indices, each below 11."""
    return torch.arange(15).view(3, 5) % 11


def images() -> Tensor:
    """[3, 4, 7, 7] floats."""
    return signals(7, 7)


def signals(*sizes: int) -> Tensor:
    """[3, 4, *sizes] floats."""
    return torch.linspace(-1, 1, 12 * math.prod(sizes)).view(3, 4, *sizes)


def sequences() -> Tensor:
    """[3, 4, 6] floats."""
    return torch.linspace(-1, 1, 72).view(3, 4, 6).sin()


LINEAR = Kind("linear", Mlp, rows, ["lin0", "lin1"])
CONV1D = Kind("conv1d", GptModel, tokens, ["c_attn", "c_proj", "c_fc"])
EMBEDDING = Kind("embedding", EmbeddingModel, tokens, ["emb"])
CONV2D = Kind("conv2d", ConvolutionModel, images, ["conv"])
ATTENTION = Kind("attention", AttentionModel, sequences, ["attn"])

KINDS = (
    LINEAR,
    Kind("linear_without_bias", lambda: Mlp(bias=False), rows, ["lin0"]),
    CONV1D,
    EMBEDDING,
    CONV2D,
    Kind(
        "conv2d_strided",
        lambda: ConvolutionModel(stride=2, padding=1, dilation=2, padding_mode="reflect"),
        images,
        ["conv"],
    ),
    Kind("conv2d_grouped", lambda: ConvolutionModel(groups=2, padding="same"), images, ["conv"]),
    Kind("conv2d_depthwise", lambda: ConvolutionModel(groups=4), images, ["conv"]),
    Kind("conv2d_padding", lambda: ConvolutionModel(PaddingConv2d), images, ["conv"]),
    Kind("conv2d_normalizing", lambda: ConvolutionModel(NormalizingConv2d), images, ["conv"]),
    Kind("conv1d_of_torch", lambda: ConvolutionModel(nn.Conv1d), lambda: signals(9), ["conv"]),
    Kind(
        "conv1d_causal_depthwise",
        lambda: ConvolutionModel(nn.Conv1d, groups=4, padding=2, bias=False),
        lambda: signals(9),
        ["conv"],
    ),
    Kind(
        "conv3d",
        lambda: ConvolutionModel(nn.Conv3d, stride=(1, 2, 1)),
        lambda: signals(3, 4, 5),
        ["conv"],
    ),
    ATTENTION,
    Kind("attention_batch_first", lambda: AttentionModel(batch_first=True), sequences, ["attn"]),
    Kind("attention_three_weights", lambda: AttentionModel(kdim=4, vdim=5), sequences, ["attn"]),
    Kind(
        "attention_three_weights_batch_first",
        lambda: AttentionModel(kdim=4, batch_first=True, bias=False, add_bias_kv=True),
        sequences,
        ["attn"],
    ),
)
KIND_IDS = tuple(kind.name for kind in KINDS)


@torch.no_grad()
def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def layers_of(model: nn.Module) -> dict[str, Lora2Layer]:
    """The adapted layers of a model by module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Lora2Layer)}


@contextmanager
def gradient_checkpointing(model: Any, use_reentrant: bool) -> Iterator[None]:
    """Recompute the activations of each block in the backward pass, for a while."""
    # transformers before 5.20 knows them by their older names alone, which PEFT passes on.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()
        model.disable_input_require_grads()


def base_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that adapters change, by their names in the base model."""
    return {
        f"{name_in_base(name)}.{weight}": getattr(layer.get_base_layer(), weight)
        for name, layer in layers_of(model).items()
        for weight in layer.weight_names()
    }


def changes(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """The changes of these weights by one adapter."""
    return {
        f"{name_in_base(name)}.{weight}": change
        for name, layer in layers_of(model).items()
        for weight, change in layer.by_weight(layer.get_delta_weight(adapter_name)).items()
    }


def name_in_base(name: str) -> str:
    """The name that an adapted layer's module has in the base model."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


@torch.no_grad()
def disturb(model: nn.Module, adapter_name: str = "default", seed: int = 0) -> None:
    """Move every factor of an adapter away from its start, so that it changes the model."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers_of(model).values():
        if layer.has_adapter(adapter_name):
            for tensor in layer.parameters_of(adapter_name).values():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))


@torch.no_grad()
def prune_half(model: nn.Module, adapter_name: str = "default") -> None:
    """Set every other singular value to zero, as an allocator does."""
    for layer in layers_of(model).values():
        layer.parameters_of(adapter_name)["lam"][1::2] = 0


def sgd_steps(model: nn.Module, x: Tensor, steps: int = 3, lr: float = 0.5) -> None:
    """A few large steps on the squared mean output."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(x)
        target = torch.arange(output.numel(), dtype=output.dtype).view_as(output) / output.numel()
        ((output - target) ** 2).mean().backward()
        optimizer.step()


def check_trains_only(part: str, model: nn.Module, x: Tensor) -> None:
    """Check that the parameters with a part in their name are trained, and no others."""
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    sgd_steps(model, x, lr=0.1)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name]) != (part in name), name
        assert tensor.requires_grad == (part in name), name


def adapter_state(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """Copies of all factors of one adapter, by module and symbol."""
    return {
        f"{name}.{symbol}": tensor.detach().clone()
        for name, layer in layers_of(model).items()
        if layer.has_adapter(adapter_name)
        for symbol, tensor in layer.parameters_of(adapter_name).items()
    }
