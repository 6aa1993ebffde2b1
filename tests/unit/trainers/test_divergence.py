"""What watches the gradients of a training, between its steps."""

import re
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from lora2 import Lora2Config
from lora2.errors import NumericalError
from lora2.trainers.divergence import GradientWatch
from lora2.tuners.base.model.placement import trained_adapters
from lora2.tuners.lora2.layer import lora2_layers
from unit.models import layers_of
from unit.tiny_transformers import bert_batch, tiny_bert


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_a_watched_model_is_evaluated(dtype: torch.dtype, without_gradients: Any) -> None:
    model = get_peft_model(tiny_bert().to(dtype), Lora2Config(task_type="SEQ_CLS", k=2, init_r=2))
    watch = GradientWatch(trained_adapters(model, Lora2Config))
    for _ in range(2):
        model.train()(**bert_batch()).loss.backward()
        watch.check()
        with without_gradients():
            assert torch.isfinite(model.eval()(**bert_batch()).loss)


def test_a_watch_that_nobody_checks_does_not_grow() -> None:
    """As after a training that was interrupted, if its model is trained on in another loop."""
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS", k=2, init_r=2))
    watch = GradientWatch(trained_adapters(model, Lora2Config))
    for _ in range(3):
        model.train()(**bert_batch()).loss.backward()
    assert len(watch._sums) == len(layers_of(model))


def test_a_nan_in_an_earlier_micro_batch_is_found() -> None:
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS", k=2, init_r=2))
    watch = GradientWatch(trained_adapters(model, Lora2Config))
    (model.train()(**bert_batch()).loss * float("nan")).backward()
    model.train()(**bert_batch()).loss.backward()
    with pytest.raises(NumericalError, match="NaN or infinity in the gradient of"):
        watch.check()


def a_watched_step() -> tuple[Any, GradientWatch]:
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS", k=2, init_r=2))
    watch = GradientWatch(trained_adapters(model, Lora2Config))
    model.train()(**bert_batch()).loss.backward()
    return model, watch


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("in_gradient", [False, True])
def test_a_factor_or_gradient_that_is_not_finite_is_named(value: float, in_gradient: bool) -> None:
    model, watch = a_watched_step()
    name, layer = list(lora2_layers(model, "default").items())[1]
    factor = layer.parameters_of("default")["lam"]
    (factor.grad if in_gradient else factor.data)[0] = value
    named = f"the gradient of {name}.lora2_lambda" if in_gradient else f"{name}.lora2_lambda"
    with pytest.raises(NumericalError, match=f"^NaN or infinity in {re.escape(named)}: "):
        watch.check()


def test_large_numbers_whose_squares_overflow_are_finite() -> None:
    model, watch = a_watched_step()
    large = next(iter(layers_of(model).values())).parameters_of("default")["V"]
    large.data.fill_(1e30)
    assert large.square().sum() == float("inf")
    assert watch.check() is None
    assert (large == 1e30).all()


def test_a_nan_is_named_next_to_a_factor_whose_squares_overflow() -> None:
    model, watch = a_watched_step()
    first, second = list(lora2_layers(model, "default").items())[:2]
    first[1].parameters_of("default")["V"].data.fill_(1e30)
    second[1].parameters_of("default")["u"].data[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=re.escape(f"{second[0]}.lora2_u")):
        watch.check()


def test_a_check_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, watch = a_watched_step()
    waits: list[int] = []
    to_list = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        waits.append(tensor.numel())
        return to_list(tensor)

    monkeypatch.setattr(Tensor, "tolist", counted)
    watch.check()
    assert len(waits) == 1


def test_the_layer_where_a_nan_arose_is_named_and_not_those_that_clipping_has_reached() -> None:
    """The first adapter's gradients are NaN only once they are clipped with the second's."""
    model = get_peft_model(tiny_bert(), Lora2Config(k=2, init_r=2))
    model.add_adapter("other", Lora2Config(k=2, init_r=2))
    model.base_model.set_adapter(["default", "other"])
    watch = GradientWatch(trained_adapters(model, Lora2Config))
    model.train()(**bert_batch()).loss.backward()
    name, layer = list(lora2_layers(model, "other").items())[1]
    layer.lora2_states["other"].watch(torch.tensor(float("nan")))
    torch.nn.utils.clip_grad_norm_(
        [layer.parameters_of("default")["V"] for layer in lora2_layers(model, "default").values()],
        float("nan"),
    )
    with pytest.raises(NumericalError, match=f"in the gradient of {re.escape(name)}: "):
        watch.check()
