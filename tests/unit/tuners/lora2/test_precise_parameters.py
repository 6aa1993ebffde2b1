"""u, Λ and 𝒰 can move whatever the model is cast to; the outer factors are cast with it."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch._dynamo.exc import Unsupported

from lora2.tuners.lora2 import forward_hook
from unit.models import LINEAR, layers_of, rows

INNER = {"u", "lam", "U"}


def dtypes(model: nn.Module, symbols: set[str]) -> set[torch.dtype]:
    return {
        parameter.dtype
        for layer in layers_of(model).values()
        for symbol, parameter in layer.parameters_of("default").items()
        if symbol in symbols
    }


def train_one_step(model: PeftModel) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        x = rows().to(next(model.parameters()).dtype)
        model(x).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def lambdas(model: nn.Module) -> torch.Tensor:
    return torch.cat([m.lora2_lambda["default"].float() for m in layers_of(model).values()])


@pytest.mark.parametrize("cast", ["half", "bfloat16", "to"])
def test_casting_a_model_leaves_the_inner_factors_in_float32(cast: str) -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    before = lambdas(model)
    model.to(torch.bfloat16) if cast == "to" else getattr(model, cast)()
    assert dtypes(model, INNER) == {torch.float32}
    assert dtypes(model, {"v", "V"}) <= {torch.float16, torch.bfloat16}
    assert torch.equal(lambdas(model), before)


def test_casting_to_a_wider_dtype_casts_all() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config()).double()
    assert dtypes(model, INNER | {"v", "V"}) == {torch.float64}


def cast_after_wrapping() -> PeftModel:
    return get_peft_model(LINEAR.model(), LINEAR.config()).to(torch.bfloat16)


def made_in_half_precision() -> PeftModel:
    base = LINEAR.model().to(torch.bfloat16)
    return get_peft_model(base, LINEAR.config(), autocast_adapter_dtype=False)


def cast_one_by_one() -> PeftModel:
    model = get_peft_model(LINEAR.model().to(torch.bfloat16), LINEAR.config())
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


every_cast = pytest.mark.parametrize(
    "make", [cast_after_wrapping, made_in_half_precision, cast_one_by_one], ids=lambda m: m.__name__
)


@every_cast
def test_singular_values_move_in_a_plain_loop(make) -> None:
    model = make().train()
    assert (lambdas(model) == 1).all()
    train_one_step(model)
    assert (lambdas(model) != 1).all()
    assert dtypes(model, INNER) == {torch.float32}


# How dynamo (torch 2.13) traces any autograd.Function, and any code after a graph break.
dynamo = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)


@pytest.mark.slow
@dynamo
@every_cast
def test_singular_values_move_in_a_loop_that_was_compiled_first(make) -> None:
    torch._dynamo.reset()
    model = make().train()
    train_one_step(torch.compile(model, backend="eager"))
    assert (lambdas(model) != 1).all()
    assert dtypes(model, INNER) == {torch.float32}


def test_the_inner_factors_move_where_the_first_matrix_is_frozen() -> None:
    model = made_in_half_precision().train()
    first, *others = layers_of(model).values()
    first.requires_grad_(False)
    train_one_step(model)
    assert all((layer.lora2_lambda["default"] != 1).any() for layer in others)


def test_an_adapter_that_is_not_trained_stays_as_it_was_loaded() -> None:
    model = made_in_half_precision()
    model.requires_grad_(False)
    model.train()(rows().to(torch.bfloat16))
    assert dtypes(model, INNER) == {torch.bfloat16}


@pytest.mark.slow
@dynamo
def test_one_whole_graph_asks_for_a_call_before_it_is_compiled() -> None:
    torch._dynamo.reset()
    model = made_in_half_precision().train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Unsupported, match="call the model once in training mode before"):
        train_one_step(compiled)
    model(rows().to(torch.bfloat16))
    train_one_step(compiled)
    assert (lambdas(model) != 1).all()


@pytest.mark.slow
@dynamo
def test_a_compiled_model_that_fsdp2_shards_keeps_its_dtypes(monkeypatch) -> None:
    """FSDP2 reduces gradients of one dtype together, and takes care of dtypes itself."""
    torch._dynamo.reset()
    monkeypatch.setattr(forward_hook, "is_fully_sharding", lambda: True)
    monkeypatch.setattr(forward_hook, "is_fully_sharded", lambda model: True)
    model = made_in_half_precision().train()
    torch.compile(model, backend="eager")(rows().to(torch.bfloat16))
    assert dtypes(model, INNER) == {torch.bfloat16}


@pytest.mark.slow
@dynamo
def test_a_model_in_half_precision_is_exported_as_it_is() -> None:
    model = made_in_half_precision().train()
    x = rows().to(torch.bfloat16)
    exported = torch.export.export(model, (x,), strict=False)
    assert dtypes(model, INNER) == {torch.bfloat16}
    torch.testing.assert_close(exported.module()(x), model(x), atol=1e-2, rtol=1e-2)
