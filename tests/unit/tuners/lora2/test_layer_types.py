"""Every kind of layer in the table answers what its adapted layer is asked."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from lora2 import Lora2Config, RankAllocator, SoraConfig
from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.lora2.layer_types import LAYER_TYPES
from unit.models import KIND_IDS, KINDS, Kind, adapter_state, layers_of

of_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)


def adapted(kind: Kind) -> PeftModel:
    return get_peft_model(kind.model(), kind.config())


@pytest.mark.parametrize("layer_type", LAYER_TYPES.values(), ids=lambda each: each.__name__)
@pytest.mark.parametrize("question", ["shape_of", "apply_factors", "in_weight_layout"])
def test_it_defines_what_only_the_kind_can_know(layer_type: type, question: str) -> None:
    assert getattr(layer_type, question) is not getattr(AdaptedLayer, question)


def test_the_contract_is_tested_on_each() -> None:
    tested = {
        type(layer.get_base_layer())
        for kind in KINDS
        for layer in layers_of(adapted(kind)).values()
    }
    assert set(LAYER_TYPES) <= tested
    assert all(issubclass(kind, tuple(LAYER_TYPES)) for kind in tested)


@of_kind
def test_its_shape_is_that_of_the_matrix_in_its_weight(kind: Kind) -> None:
    for layer in layers_of(adapted(kind)).values():
        matrix = torch.rand(layer.shape_of(layer.get_base_layer()))
        stored = layer.in_weight_layout(matrix)
        assert stored.shape == layer.weight.shape
        assert layer.stores_transposed == torch.equal(stored, matrix.mT)


@of_kind
def test_it_trains_is_pruned_and_reloads(kind: Kind, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = kind.config(init_r=3, target_r=1, tinit=0, tfinal=0.25)
    model = get_peft_model(kind.model(), config)
    before = adapter_state(model)
    allocator = RankAllocator(model, total_steps=8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(8):
        model(kind.inputs()).square().mean().backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    assert allocator.kept == allocator.budget == len(layers_of(model))
    trained = {name.rpartition(".")[0] for name, value in before.items() if name.endswith(".V")}
    for name in trained:
        assert not torch.equal(adapter_state(model)[f"{name}.V"], before[f"{name}.V"])
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(kind.model(), tmp_path).eval()
    assert sum(layer.sizes_of("default")[1] for layer in layers_of(reloaded).values()) == (
        allocator.kept
    )
    with torch.no_grad():
        torch.testing.assert_close(
            reloaded(kind.inputs()), model.eval()(kind.inputs()), atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("config", [Lora2Config, SoraConfig])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: nn.LazyLinear(3),
            "is a LazyLinear that has no weight before its first call: call the",
        ),
        (
            lambda: nn.Linear(3, 0),
            "has an empty weight of 0 × 3, which no adapter can change: add it to",
        ),
        (
            lambda: nn.Linear(0, 3),
            "has an empty weight of 3 × 0, which no adapter can change: add it to",
        ),
    ],
    ids=["lazy", "no_outputs", "no_inputs"],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_layer_without_a_weight_is_refused(
    config: type[Lora2Config] | type[SoraConfig], make: Callable[[], nn.Module], said: str
) -> None:
    model = nn.Sequential(OrderedDict(first=make()))
    with pytest.raises(UserError, match=f"Module 'first' {said}"):
        get_peft_model(model, config(target_modules=["first"]))


def test_a_lazy_convolution_is_refused_and_one_that_was_called_is_adapted() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(UserError, match="LazyConv2d that has no weight"):
        get_peft_model(model, Lora2Config(target_modules=["0"]))
    model(torch.randn(1, 2, 5, 5))
    assert len(layers_of(get_peft_model(model, Lora2Config(target_modules=["0"])))) == 1
