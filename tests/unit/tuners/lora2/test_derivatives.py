"""Derivatives beyond one backward pass: torch.func, forward mode, double backward, traces."""

import io

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

from lora2 import Lora2Config

Parameters = dict[str, Tensor]

# torch's own, in its forward mode and in its tracer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def model(**fields: object) -> PeftModel:
    """Three adapted layers, two of them of one shape, whose factors are made together."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    defaults = {"k": 2, "init_r": 3, "target_modules": ["0", "2", "4"], "init_weights": False}
    return get_peft_model(net.double(), Lora2Config(**(defaults | fields))).double()


def trained(adapted: nn.Module) -> Parameters:
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}


def loss_of(adapted: nn.Module, parameters: Parameters, x: Tensor) -> Tensor:
    return functional_call(adapted, parameters, (x,)).square().mean()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


FORMS = pytest.mark.parametrize(
    "fields",
    [{}, {"k": 1}, {"orthogonality": "none"}, {"k": 3, "init_weights": True}],
    ids=["k=2", "k=1", "free", "at the start"],
)


@FORMS
def test_functorch_has_the_gradients_of_autograd(fields: dict[str, object], x: Tensor) -> None:
    adapted = model(**fields)
    own = trained(adapted)
    adapted(x).square().mean().backward()
    detached = {name: p.detach() for name, p in own.items()}
    found = grad(lambda p: loss_of(adapted, p, x))(detached)
    for name, parameter in own.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_gradients_of_each_sample(x: Tensor) -> None:
    adapted = model()
    detached = {name: p.detach() for name, p in trained(adapted).items()}
    of_each = vmap(grad(lambda p, row: loss_of(adapted, p, row)), (None, 0))(detached, x)
    for index, row in enumerate(x):
        alone = grad(lambda p, row=row: loss_of(adapted, p, row))(detached)
        for name in detached:
            torch.testing.assert_close(of_each[name][index], alone[name], rtol=1e-9, atol=1e-12)


@FORMS
def test_the_gradient_of_a_gradient_is_the_hessian(fields: dict[str, object], x: Tensor) -> None:
    adapted = model(**fields)
    own = trained(adapted)
    generator = torch.Generator().manual_seed(2)
    along = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in own.items()
    }
    first = torch.autograd.grad(adapted(x).square().mean(), list(own.values()), create_graph=True)
    product = sum((g * along[name]).sum() for name, g in zip(own, first, strict=True))
    assert isinstance(product, Tensor)
    second = torch.autograd.grad(product, list(own.values()), allow_unused=True)
    detached = {name: p.detach() for name, p in own.items()}
    matrix = hessian(lambda p: loss_of(adapted, p, x))(detached)
    for name, found in zip(own, second, strict=True):
        expected = sum(
            (matrix[name][other] * along[other]).flatten(own[name].dim()).sum(-1) for other in own
        )
        assert isinstance(expected, Tensor)
        found = torch.zeros_like(own[name]) if found is None else found
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_the_gradient_of_the_input_can_be_penalised(x: Tensor) -> None:
    """As gradient penalties do: the second derivative mixes input and factors."""
    adapted = model()
    own = trained(adapted)

    def penalty(values: Parameters) -> Tensor:
        inputs = x.clone().requires_grad_()
        loss = functional_call(adapted, values, (inputs,)).square().mean()
        (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
        return slope.square().sum()

    found = torch.autograd.grad(penalty(own), list(own.values()), allow_unused=True)
    for (name, parameter), gradient in zip(own.items(), found, strict=True):
        direction = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        step = 1e-5
        moved = [
            penalty({**own, name: parameter.detach() + sign * step * direction}) for sign in (1, -1)
        ]
        slope = (moved[0] - moved[1]) / (2 * step)
        assert gradient is not None
        assert (gradient * direction).sum().item() == pytest.approx(
            slope.item(), rel=1e-5, abs=1e-9
        )


def test_forward_mode_has_the_same_derivative(x: Tensor) -> None:
    adapted = model()
    detached = {name: p.detach() for name, p in trained(adapted).items()}
    tangents = {name: torch.ones_like(p) for name, p in detached.items()}
    gradients = grad(lambda p: loss_of(adapted, p, x))(detached)
    expected = sum(float((gradients[name] * tangents[name]).sum()) for name in detached)
    _, along = jvp(lambda p: loss_of(adapted, p, x), (detached,), (tangents,))
    assert float(along) == pytest.approx(expected, rel=1e-9)
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(p, tangents[name]) for name, p in detached.items()}
        tangent = forward_ad.unpack_dual(loss_of(adapted, duals, x)).tangent
    assert tangent is not None
    assert float(tangent) == pytest.approx(expected, rel=1e-9)


def test_a_trace_is_saved_and_computes_the_same(x: Tensor) -> None:
    adapted = model().eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(adapted, (x,)), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), adapted(x))


@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_model_that_was_called_is_traced_with_the_parameters_that_it_has(
    with_gradients: bool, x: Tensor
) -> None:
    adapted = model().eval()
    with torch.set_grad_enabled(with_gradients):
        adapted(x)
    traced = torch.jit.trace(adapted, (x,))
    with torch.no_grad():
        for parameter in trained(adapted).values():
            parameter.add_(0.1)
    torch.testing.assert_close(traced(x), adapted(x))


def test_a_trace_has_the_gradients_of_the_model_at_the_start(x: Tensor) -> None:
    """All eigenvalues of vᵀv are equal there, and their differences no divisor."""
    adapted = model(k=3)
    with torch.no_grad():
        for name, parameter in trained(adapted).items():
            if "lora2_v" in name:
                basis, _ = torch.linalg.qr(parameter.mT)
                parameter.copy_(basis.mT)
    traced = torch.jit.trace(adapted, (x,))
    gradients = []
    for computed in (traced, adapted):
        adapted.zero_grad()
        computed(x).square().mean().backward()
        gradients.append({name: p.grad for name, p in trained(adapted).items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-10)


def test_functorch_differentiates_the_penalty_in_a_models_own_loss(x: Tensor) -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.lin(x).square().mean()}

    config = Lora2Config(
        k=2, init_r=3, target_modules=["lin"], orthogonality="penalty", init_weights=False
    )
    adapted = get_peft_model(WithLoss(), config).double().train()
    own = trained(adapted)
    adapted(x)["loss"].backward()
    found = grad(lambda p: functional_call(adapted, p, (x,))["loss"])(
        {name: p.detach() for name, p in own.items()}
    )
    for name, parameter in own.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_an_operation_in_place_may_follow_an_adapted_layer(x: Tensor) -> None:
    def network(inplace: bool) -> PeftModel:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 2)).double()
        config = Lora2Config(k=2, init_r=2, target_modules=["0", "2"], init_weights=False)
        return get_peft_model(net, config).double()

    losses = []
    for adapted in (network(inplace=False), network(inplace=True)):
        loss = adapted(x).square().sum()
        loss.backward()
        losses.append([loss, *(p.grad for p in trained(adapted).values())])
    for plain, in_place in zip(*losses, strict=True):
        assert torch.equal(plain, in_place)
