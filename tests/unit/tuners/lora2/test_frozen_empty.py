"""A layer that was emptied is frozen, and once it is filled again it trains as its adapter does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from lora2 import compact_adapter
from unit.models import LINEAR, disturb, layers_of


def emptied() -> PeftModel:
    """A model of which the first of two layers was emptied."""
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    disturb(model)
    with torch.no_grad():
        layers_of(model)["base_model.model.lin0"].parameters_of("default")["lam"].zero_()
    compact_adapter(model)
    return model


def load_by_peft(model: PeftModel) -> None:
    whole = get_peft_model(LINEAR.model(), LINEAR.config())
    set_peft_model_state_dict(model, get_peft_model_state_dict(whole))


def load_by_torch(model: PeftModel) -> None:
    whole = get_peft_model(LINEAR.model(), LINEAR.config())
    model.load_state_dict(whole.state_dict())


def trained(model: nn.Module) -> dict[str, bool]:
    return {
        name: all(p.requires_grad for p in layer.parameters_of("default").values())
        for name, layer in layers_of(model).items()
    }


def freeze_adapter(model: Any) -> None:
    model.set_requires_grad("default", False)


def freeze_module(model: Any) -> None:
    model.requires_grad_(False)


def freeze_and_train(model: Any) -> None:
    model.set_requires_grad("default", False)
    model.set_requires_grad("default", True)


@pytest.mark.parametrize("load", [load_by_peft, load_by_torch])
@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        (freeze_adapter, False),
        (freeze_module, False),
        (freeze_and_train, True),
        (lambda model: None, True),
    ],
    ids=["set_requires_grad", "requires_grad_", "on again", "trained"],
)
def test_a_layer_that_is_filled_again_is_trained_as_the_others(
    switch: Callable[[Any], Any], expected: bool, load: Callable[[PeftModel], None]
) -> None:
    model = emptied()
    switch(model)
    load(model)
    assert set(trained(model).values()) == {expected}
    assert model.get_model_status().requires_grad == {"default": expected}
