"""Linear layers with a forward of their own: it is called, and a merge warns where it matters."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora2 import Lora2Config
from lora2.tuners.sora import SoraConfig
from unit.models import disturb

WARNING = "^(?:base_model.model.)?lin and 1 more is a Scaled, whose forward computes something else"


class Scaled(nn.Linear):
    """More than W x + b."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input) + input.sum()


class Pair(nn.Linear):
    """Gives more than one output, as the linear layers of some engines do."""

    def forward(self, input: Tensor, more: Tensor | None = None) -> tuple[Tensor, None]:
        return super().forward(input), None


class Rewritten(nn.Linear):
    """W x + b in other words, as Falcon has it."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.T + self.bias


class RewrittenConv1D(Conv1D):
    """The same of a weight that is stored transposed."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Model(nn.Module):
    """Two layers of a kind."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (6, 4) if issubclass(kind, Conv1D) else (4, 6)
        self.lin, self.other = kind(*sizes), kind(*sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) + self.other(x)


@torch.no_grad()
@pytest.mark.parametrize("kind", [Lora2Config, SoraConfig])
def test_a_merge_warns_once_of_layers_that_compute_more(kind: type) -> None:
    x = torch.randn(3, 4)
    model = get_peft_model(Model(Scaled), kind(target_modules=["lin", "other"])).eval()
    disturb(model)
    layer = model.base_model.model.lin
    expected = Model(Scaled).lin(x) + x @ layer.get_delta_weight("default").T
    torch.testing.assert_close(layer(x), expected)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.warns(UserWarning, match=WARNING) as found:
            merge()
        assert len(found) == 1
        model.unmerge_adapter() if merge == model.merge_adapter else None


@torch.no_grad()
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D, Rewritten, RewrittenConv1D])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_merge_says_nothing_of_linear_layers(kind: type[nn.Module], dtype: torch.dtype) -> None:
    model = get_peft_model(Model(kind).to(dtype), Lora2Config(target_modules=["lin"])).eval()
    disturb(model)
    model.merge_and_unload()


def test_a_merge_warns_of_layers_without_one_output() -> None:
    model = get_peft_model(Model(Pair), Lora2Config(target_modules=["lin"]))
    with pytest.warns(UserWarning, match="lin is a Pair, whose forward"):
        model.merge_adapter()


def test_a_layer_without_the_adapter_is_not_warned_of() -> None:
    model = Model(Scaled)
    model.third = nn.Linear(4, 6)
    adapted = get_peft_model(model, Lora2Config(target_modules=["lin"]))
    adapted.add_adapter("other", Lora2Config(target_modules=["third"]))
    adapted.merge_adapter(["other"])
