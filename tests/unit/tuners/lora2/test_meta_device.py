"""A model on the meta device, which autocast does not know, is called as its base model is."""

import pytest
from peft import get_peft_model

from unit.models import KIND_IDS, KINDS, Kind


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
def test_it_has_outputs_of_the_shape_of_the_base_model(kind: Kind, training: bool) -> None:
    model = get_peft_model(kind.model(), kind.config("k_above_r")).train(training)
    expected = model(kind.inputs())
    found = model.to("meta")(kind.inputs().to("meta"))
    assert found.is_meta
    assert found.shape == expected.shape
