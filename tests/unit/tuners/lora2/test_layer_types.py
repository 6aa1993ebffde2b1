"""Every kind of layer in the table answers what its adapted layer is asked."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from lora2.tuners.base.layer import AdaptedLayer
from lora2.tuners.lora2.layer_types import LAYER_TYPES
from unit.models import KIND_IDS, KINDS, Kind, layers_of

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
