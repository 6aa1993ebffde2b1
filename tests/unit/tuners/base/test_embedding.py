"""Embeddings with a forward of their own: adapters and rows compute what they do merged."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.models.bart.modeling_bart import (
    BartLearnedPositionalEmbedding,
    BartScaledWordEmbedding,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from lora2 import Lora2Config
from unit.models import disturb, layers_of

X = torch.tensor([[1, 2, 5], [5, 0, 3]])
SIZES = (8, 6)


class Shifted(nn.Embedding):
    """Looks up the next token's row, times a factor, plus a number."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward((input + 1) % self.num_embeddings) + 1


EMBEDDINGS = {
    "plain": lambda: nn.Embedding(*SIZES),
    "short": lambda: nn.Embedding(*SIZES, max_norm=0.5),
    "gemma": lambda: Gemma3TextScaledWordEmbedding(*SIZES, padding_idx=0, embed_scale=2.5),
    "bart": lambda: BartScaledWordEmbedding(*SIZES, padding_idx=0, embed_scale=2.5),
    "positions": lambda: BartLearnedPositionalEmbedding(*SIZES),
    "shifted": lambda: Shifted(*SIZES),
}


class Model(nn.Module):
    """An embedding and a layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.lin = EMBEDDINGS[name](), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(self.emb(x))


def check_merges(model: PeftModel, name: str) -> None:
    """The oracle is the embedding's own forward with the merged weight."""
    expected = model(X)
    assert float((expected - Model(name)(X)).detach().abs().max()) > 1e-2
    merged = model.merge_and_unload()
    assert type(merged.emb) is type(Model(name).emb)
    torch.testing.assert_close(merged(X), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_an_adapted_embedding_computes_what_it_does_merged(name: str) -> None:
    model = get_peft_model(Model(name), Lora2Config(target_modules=["emb"])).eval()
    disturb(model)
    model(X).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    if name != "positions":
        mixed = model(X, adapter_names=["default", "__base__"])
        torch.testing.assert_close(mixed[0], model(X)[0], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        check_merges(model, name)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_of_a_token_is_divided_by_its_count_where_the_embedding_says_so(
    sparse: bool,
) -> None:
    """The adapter's gradient is dense also where that of the embedding's weight would be sparse."""
    gradients = []
    for scaled in (True, False):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Embedding(*SIZES, scale_grad_by_freq=scaled, sparse=sparse))
        model = get_peft_model(base, Lora2Config(target_modules=["0"]))
        disturb(model)
        model(X).sum().backward()
        (layer,) = layers_of(model).values()
        gradients.append(layer.lora2_V["default"].grad)
    counts = torch.bincount(X.flatten(), minlength=SIZES[0]).clamp(min=1)
    torch.testing.assert_close(gradients[0], gradients[1] / counts)


@torch.no_grad()
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_rows_of_an_embedding_are_looked_up_as_the_others(name: str) -> None:
    config = Lora2Config(target_modules=["lin"], trainable_token_indices={"emb": [2, 5, 6]})
    model = get_peft_model(Model(name), config).eval()
    for tensor in (p for n, p in model.named_parameters() if "token_adapter" in n and "del" in n):
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    check_merges(model, name)
