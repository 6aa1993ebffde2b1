"""Dtypes, autocast, gradient checkpointing and torch.compile."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lora2 import Lora2Config
from lora2.tuners.lora2.forward_hook import hooks_in
from unit.models import (
    ADAPTER_FORMS,
    ATTENTION,
    CONV2D,
    EMBEDDING,
    KIND_IDS,
    KINDS,
    LINEAR,
    Kind,
    disturb,
    gradient_checkpointing,
    layers_of,
)
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama

# How dynamo (torch 2.13) traces any autograd.Function.
dynamo = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"
)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_IDS)
HALVES = [torch.float16, torch.bfloat16]


def half_inputs(kind: Kind, dtype: torch.dtype, batch: int = 1) -> Tensor:
    x = torch.cat([kind.inputs()] * batch)
    return x.to(dtype) if x.is_floating_point() else x


class FloatProducts(TorchDispatchMode):
    """Records every float32 tensor that an operation gives and that is as long as the batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        in_float32 = isinstance(result, Tensor) and result.dtype == torch.float32
        if in_float32 and result.numel() and result.shape[:1] == (self.batch,):
            self.found.append(f"{func} {tuple(result.shape)}")
        return result


@pytest.mark.parametrize("dtype", HALVES)
@every_kind
def test_half_precision_base_keeps_its_dtype_and_factors_stay_in_float32(
    kind: Kind, dtype: torch.dtype
) -> None:
    model = get_peft_model(kind.model().to(dtype), kind.config()).eval()
    disturb(model)
    x = half_inputs(kind, dtype)
    assert model(x).dtype == dtype
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora2_" in name else dtype), name
    # Rounded once for the weights of the base, the factors and each product.
    reference = get_peft_model(kind.model(), kind.config()).eval()
    disturb(reference)
    reference.load_state_dict(model.state_dict())
    x32 = kind.inputs()
    torch.testing.assert_close(model(x).float(), reference(x32), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", [LINEAR, EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_activations_are_never_cast_up(kind: Kind, dtype: torch.dtype) -> None:
    # 13 is no size of any factor.
    x = torch.cat([half_inputs(kind, dtype)] * 5)[:13]
    model = get_peft_model(kind.model().to(dtype), kind.config()).eval()
    disturb(model)
    for layer in layers_of(model).values():
        layer_input = x
        if kind is LINEAR:
            layer_input = torch.randn(13, layer.matrix_shape()[1]).to(dtype)
        with FloatProducts(batch=13) as products:
            output = layer(layer_input)
        assert output.dtype == dtype
        assert products.found == []


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@every_kind
def test_autocast_gives_autocasts_dtype_and_float32_gradients(
    kind: Kind, base: torch.dtype
) -> None:
    model = get_peft_model(kind.model().to(base), kind.config())
    disturb(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(half_inputs(kind, base))
        with model.disable_adapter():
            plain = model(half_inputs(kind, base))
    assert output.dtype == plain.dtype
    output.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.dtype == torch.float32, name
            assert torch.isfinite(parameter.grad).all(), name


def test_autocast_takes_the_thin_products_in_half_precision() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config()).eval()
    disturb(model)
    layer = next(iter(layers_of(model).values()))
    B, A = layer.factors("default")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # The k × k algebra is not autocast.
        assert all(torch.equal(f, g) for f, g in zip(layer.factors("default"), (B, A), strict=True))
        assert layer.adapter_output(LINEAR.inputs(), "default").dtype == torch.bfloat16


def test_autocast_does_not_round_the_core_of_a_nearly_dependent_v() -> None:
    """(vᵀ v)^(−1/2) is large there, and its rounding with it."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(256, 256))
    model = get_peft_model(base, Lora2Config(target_modules=["0"], k=8, init_weights=False))
    (layer,) = layers_of(model).values()
    with torch.no_grad():
        vt = layer.lora2_v["default"]
        vt.copy_(vt.mean(0) + 1e-2 * vt)
    x = torch.randn(16, 256)
    exact = layer.double()(x.double()).float()
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x).float()
    assert (output - exact).norm() / exact.norm() < 0.01


def test_model_cast_to_half_with_its_adapter_still_works() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config()).eval()
    disturb(model)
    expected = model(LINEAR.inputs())
    model.to(torch.bfloat16)
    output = model(LINEAR.inputs().bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("form", ["exact", "penalty", "k_above_r", "k_is_one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_in_this_dtype_reduces_the_loss(dtype: torch.dtype, form: str) -> None:
    config = Lora2Config(**({"task_type": "SEQ_CLS", "k": 3} | ADAPTER_FORMS[form]))
    model = get_peft_model(tiny_bert().to(dtype), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**bert_batch(8)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# Gradient checkpointing


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("orthogonality", ["exact", "penalty", "none"])
@pytest.mark.parametrize("make", [tiny_bert, tiny_llama])
def test_gradient_checkpointing_gives_the_same_gradients(
    make: Any, orthogonality: str, use_reentrant: bool
) -> None:
    model = get_peft_model(
        make(), Lora2Config(k=3, init_r=4, orthogonality=orthogonality, lora_dropout=0.1)
    )
    # Layers that are run again compute their cores one by one, which rounds differently.
    model.double().train()
    disturb(model)
    batch = bert_batch()
    if make is tiny_llama:
        batch["labels"] = batch["input_ids"]

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(3)
        model(**batch).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    expected = gradients()
    with gradient_checkpointing(model.base_model.model, use_reentrant):
        assert model.base_model.model.is_gradient_checkpointing
        actual = gradients()
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("use_reentrant", [True, False])
@every_kind
def test_checkpointed_kind_has_the_same_gradients(kind: Kind, use_reentrant: bool) -> None:
    model = get_peft_model(kind.model(), kind.config("k_above_r")).double()
    disturb(model)
    x = kind.inputs()
    x = x.double() if x.is_floating_point() else x
    held = dict(model.named_parameters())
    trained = {name: parameter for name, parameter in held.items() if parameter.requires_grad}

    def gradients(run_again: bool) -> dict[str, Tensor | None]:
        model.zero_grad()
        # A checkpoint with reentry wants an input with a gradient.
        one = torch.ones((), dtype=torch.float64, requires_grad=True)

        def part(one: Tensor) -> Tensor:
            return one * model(x)

        output = checkpoint(part, one, use_reentrant=use_reentrant) if run_again else part(one)
        output.square().sum().backward()
        return {name: parameter.grad for name, parameter in trained.items()}

    expected, found = gradients(False), gradients(True)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=1e-10)


# torch.compile


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.slow
@dynamo
@pytest.mark.parametrize(
    ("kind", "backend", "form"),
    [
        (LINEAR, "aot_eager", "exact"),
        (LINEAR, "aot_eager", "penalty"),
        (LINEAR, "eager", "k_is_one"),
        (EMBEDDING, "eager", "exact"),
        (CONV2D, "eager", "exact"),
        (ATTENTION, "aot_eager", "exact"),
    ],
    ids=["linear", "linear_penalty", "linear_k_is_one", "embedding", "conv2d", "attention"],
)
def test_compiled_layer_gives_the_same_output_and_gradients(
    kind: Kind, backend: str, form: str
) -> None:
    torch._dynamo.reset()
    model = get_peft_model(kind.model(), kind.config(form))
    disturb(model)
    layer = next(iter(layers_of(model).values()))
    x = kind.inputs()
    inputs = (x, x, x) if kind is ATTENTION else (x,)
    factors = list(layer.parameters_of("default").values())
    expected = first(layer(*inputs))
    expected_gradients = torch.autograd.grad(expected.square().sum(), factors)
    compiled = first(torch.compile(layer, fullgraph=True, backend=backend)(*inputs))
    torch.testing.assert_close(compiled, expected)
    gradients = torch.autograd.grad(compiled.square().sum(), factors)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@dynamo
@pytest.mark.parametrize("form", ["exact", "penalty"])
def test_compiled_model_trains(form: str) -> None:
    torch._dynamo.reset()
    model = get_peft_model(LINEAR.model(), LINEAR.config(form)).train()
    compiled = torch.compile(model, backend="aot_eager")
    x = LINEAR.inputs()
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
@dynamo
# Free factors ("none") are compiled as those of the penalty are.
@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_compiled_transformer_has_no_graph_break(orthogonality: str) -> None:
    """With the hooks that prepare the factors and add the penalty."""
    torch._dynamo.reset()
    counters.clear()
    base = tiny_bert(num_hidden_layers=1)
    # Else transformers finds it out in the first step, and compiles again.
    base.config.problem_type = "single_label_classification"
    model = get_peft_model(base, Lora2Config(k=3, init_r=4, orthogonality=orthogonality)).train()
    disturb(model)
    compiled = torch.compile(model, backend="eager")
    batch = bert_batch()
    for _ in range(2):
        torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss)
    assert not counters["graph_break"]


@pytest.mark.slow
@dynamo
@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_model_compiled_for_all_shapes_trains_as_the_plain_one(orthogonality: str) -> None:
    torch._dynamo.reset()
    config = Lora2Config(target_modules=["0", "1"], k=3, init_r=3, orthogonality=orthogonality)
    base = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))
    model = get_peft_model(base, config).train()
    disturb(model)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for rows in (4, 5):
        x = torch.randn(rows, 6)
        wanted = torch.autograd.grad(model(x).square().mean(), trained)
        found = torch.autograd.grad(compiled(x).square().mean(), trained)
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


class WithLoss(nn.Module):
    """A model that returns its loss and takes the number of items of the optimizer's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor, num_items_in_batch: int | None = None) -> dict[str, Tensor]:
        return {"loss": self.layer(x).square().mean()}


@pytest.mark.slow
@dynamo
@pytest.mark.parametrize("losses_are_summed", [False, True])
def test_penalty_is_not_compiled_again_for_each_micro_batch(losses_are_summed: bool) -> None:
    torch._dynamo.reset()
    config = Lora2Config(target_modules=["layer"], k=3, init_r=4, orthogonality="penalty")
    model = get_peft_model(WithLoss(), config).train()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    whole = {"num_items_in_batch": 4} if losses_are_summed else {}
    compilations = []
    for _ in range(3):
        for _ in range(4):
            compiled(x=torch.ones(2, 6), **whole)["loss"].backward()
            compilations.append(counter.frame_count)
        for hook in hooks_in(model):
            hook.meter.end_step()
    # A step's first micro-batch has nothing to add to, where losses are summed.
    assert len(set(compilations)) == 1 + losses_are_summed
    assert compilations[1] == compilations[-1]
