"""Every way through a linear layer gives the oracle's output and gradients in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

import oracle
from lora2.tuners.lora2 import forward_hook, joint_product, linear
from unit.forward_path_case import NAMES, PATHS, Masked, Path, adapted, assert_same_gradients
from unit.models import layers_of


def literal_output(model: nn.Module, x: Tensor, stored: dict[str, list[oracle.Factors]]) -> Tensor:
    """tanh(x W + Σ D(x) Δ + b), layer after layer, in the paper's orientation."""
    for name, layer in layers_of(model).items():
        base = layer.base_layer
        weight = base.weight if isinstance(base, Conv1D) else base.weight.T
        y = oracle.product(x, weight.detach()) + base.bias.detach()
        for adapter, factors in zip(NAMES, stored[name], strict=False):
            state = layer.lora2_states[adapter]
            masked = x * Masked.mask if isinstance(layer.adapter_dropout[adapter], Masked) else x
            delta = oracle.delta(factors, state.config_scaling, state.orthonormalize)
            y = y + oracle.product(masked, delta)
        x = torch.tanh(y)
    return x


@pytest.mark.parametrize("orthogonality", ["exact", "none"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_output_and_gradients_are_the_oracles(
    path: Path, orthogonality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint_calls = []
    real = linear.joint_product
    monkeypatch.setattr(
        linear, "joint_product", lambda *tensors: joint_calls.append(1) or real(*tensors)
    )
    model = adapted(path, orthogonality)
    layers = layers_of(model)
    stored = {
        name: [oracle.Factors(**layer.five_factors(adapter)) for adapter in NAMES[: path.adapters]]
        for name, layer in layers.items()
    }
    factors = [
        tensor
        for layer in layers.values()
        for adapter in NAMES[: path.adapters]
        for tensor in layer.parameters_of(adapter).values()
    ]
    x = torch.randn(2, 6, dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, 6, dtype=torch.float64)

    output = model(x)
    (output * weights).sum().backward()
    actual = [x.grad, *(tensor.grad for tensor in factors)]
    expected_output = literal_output(model, x, stored)
    expected = torch.autograd.grad((expected_output * weights).sum(), [x, *factors])

    oracle.assert_agrees(output, expected_output)
    for got, wanted in zip(actual, expected, strict=True):
        oracle.assert_agrees(got, wanted)
    assert bool(joint_calls) == path.joint
    assert all(bool(layer.lora2_prepared) == path.prepared for layer in layers.values())


# How six rows of an input, and of a gradient, may lie in memory.
LAYOUTS: dict[str, Callable[[Callable[..., Tensor], int], Tensor]] = {
    "in_rows": lambda draw, width: draw(2, 3, width),
    "batch_second": lambda draw, width: draw(3, 2, width).transpose(0, 1),
    "in_columns": lambda draw, width: draw(width, 6).mT,
}


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_joint_product_is_the_oracles_however_its_rows_are_split(
    threads: int, bias: bool, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows: equal parts for up to three threads, none for four."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(joint_product, "_LONG_ROW", 5)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    six_rows = LAYOUTS[layout]
    x, A, V = six_rows(draw, 5), draw(2, 5), draw(2, 7)
    weight, b = draw(7, 5).detach(), draw(7) if bias else None
    y = joint_product.joint_product(x, weight, b, A, V)
    delta = oracle.product(A.T, V)
    expected = oracle.product(x.reshape(6, 5), weight.T + delta).view(*x.shape[:-1], 7)
    expected = expected if b is None else expected + b
    oracle.assert_agrees(y, expected)
    direction = six_rows(draw, 7).detach()
    inputs = [x, A, V, *([b] if bias else [])]
    for got, wanted in zip(
        torch.autograd.grad((y * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        oracle.assert_agrees(got, wanted)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_part_of_the_model_trains_after_a_backward_pass_of_the_whole(path: Path) -> None:
    """As a second loss on one of CLIP's encoders; its gradients add up to those of the first."""
    x = torch.randn(2, 6, dtype=torch.float64).requires_grad_()

    def part_of(model: nn.Module) -> Tensor:
        return next(iter(layers_of(model).values()))(x).square().sum()

    def one_after_the_other(model: nn.Module) -> None:
        model(x).square().sum().backward()
        part_of(model).backward()

    def in_one_pass(model: nn.Module) -> None:
        (model(x).square().sum() + part_of(model)).backward()

    assert_same_gradients(path, one_after_the_other, in_one_pass)


@pytest.mark.parametrize("symbol", ["v", "u", "lam", "U", "V"])
def test_a_frozen_factor_gets_no_gradient_and_the_others_theirs(symbol: str) -> None:
    x = torch.randn(2, 6, dtype=torch.float64)
    gradients = []
    for path in PATHS[:2]:
        model = adapted(path, "exact")
        for layer in layers_of(model).values():
            layer.parameters_of("default")[symbol].requires_grad_(False)
        model(x).square().sum().backward()
        factors = [layer.parameters_of("default") for layer in layers_of(model).values()]
        assert all(each[symbol].grad is None for each in factors)
        gradients.append([p.grad for each in factors for s, p in each.items() if s != symbol])
    for got, wanted in zip(*gradients, strict=True):
        oracle.assert_agrees(got, wanted)


def test_gradients_in_evaluation_mode_after_a_backward_pass_without_a_step() -> None:
    model = adapted(PATHS[0], "exact")
    x = torch.randn(2, 6, dtype=torch.float64).requires_grad_()
    model(x).sum().backward()
    wanted = x.grad.clone()
    model.eval()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_pass_without_gradients_between_forward_and_backward_changes_nothing(path: Path) -> None:
    """As the reference pass of DPO, on the same model in training mode."""
    x = torch.randn(2, 6, dtype=torch.float64).requires_grad_()

    def with_a_pass_between(model: nn.Module) -> None:
        loss = model(x).square().sum()
        with torch.no_grad():
            model(2 * x)
        loss.backward()

    assert_same_gradients(path, with_a_pass_between, lambda model: _train_on(model, x))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_two_forward_passes_before_one_backward_pass(path: Path) -> None:
    """As a loss that compares two texts; the gradients are those of one batch with both."""
    x, y = (torch.randn(2, 6, dtype=torch.float64).requires_grad_() for _ in range(2))

    def two_passes(model: nn.Module) -> None:
        torch.cat([model(x), model(y)]).square().sum().backward()

    assert_same_gradients(path, two_passes, lambda model: _train_on(model, torch.cat([x, y])))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_failed_pass_without_gradients_leaves_a_training_step_as_it_was(path: Path) -> None:
    x = torch.randn(2, 6, dtype=torch.float64).requires_grad_()

    def with_a_failed_pass(model: nn.Module) -> None:
        loss = model(x).square().sum()
        with torch.no_grad(), pytest.raises(RuntimeError):
            model(torch.randn(2, 5, dtype=torch.float64))
        loss.backward()

    assert_same_gradients(path, with_a_failed_pass, lambda model: _train_on(model, x))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_an_interrupted_pass_without_gradients_does_not_reach_the_next_step(path: Path) -> None:
    x = torch.randn(2, 6, dtype=torch.float64).requires_grad_()

    def after_an_interruption(model: nn.Module) -> None:
        model(x)
        handle = next(iter(layers_of(model).values())).register_forward_hook(_interrupt)
        with torch.no_grad(), pytest.raises(KeyboardInterrupt):
            model(x)
        handle.remove()
        _train_on(model, x)

    assert_same_gradients(path, after_an_interruption, lambda model: _train_on(model, x))


def _train_on(model: nn.Module, x: Tensor) -> None:
    model(x).square().sum().backward()


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def _replica(module: nn.Module) -> nn.Module:
    """What torch's DataParallel makes of a module for one of its devices."""
    replicas = {each: each._replicate_for_data_parallel() for each in module.modules()}
    for each, replica in replicas.items():
        for name, child in each._modules.items():
            setattr(replica, name, None if child is None else replicas[child])
        for name, parameter in each._parameters.items():
            setattr(replica, name, None if parameter is None else parameter * 1)
    return replicas[module]


def test_replicas_of_data_parallel_compute_the_same_and_reach_the_parameters() -> None:
    model = adapted(PATHS[0], "exact")
    x = torch.randn(2, 6, dtype=torch.float64)
    factors = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(model(x).square().sum(), factors)
    known = forward_hook.installed(model).known_layers
    got = torch.autograd.grad(_replica(model)(x).square().sum(), factors)
    for one, other in zip(got, wanted, strict=True):
        oracle.assert_agrees(one, other)
    assert forward_hook.installed(model).known_layers is known


def test_the_penalty_is_computed_of_the_layers_that_the_hook_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = adapted(PATHS[0], "exact").train()

    def look(*arguments: object) -> None:
        raise AssertionError("looked through all modules")

    monkeypatch.setattr(forward_hook, "modules_of_type", look)
    assert forward_hook.weighted_penalty(model) is None


def test_frozen_base_that_thaws_gets_its_gradient() -> None:
    model = adapted(PATHS[0], "exact")
    layer = next(iter(layers_of(model).values()))
    layer.base_layer.weight.requires_grad_(True)
    model(torch.randn(2, 6, dtype=torch.float64)).sum().backward()
    assert layer.base_layer.weight.grad.abs().sum() > 0


def test_trained_bias_gets_its_gradient() -> None:
    model = adapted(PATHS[0], "exact")
    layer = list(layers_of(model).values())[-1]
    layer.base_layer.bias.requires_grad_(True)
    x = torch.randn(2, 6, dtype=torch.float64)
    output = model(x)
    output.sum().backward()
    oracle.assert_agrees(layer.base_layer.bias.grad, (1 - output**2).sum(0))


OF_ALL = nn.modules.module
HOOKS: dict[str, Callable[..., RemovableHandle]] = {
    "forward": nn.Module.register_forward_hook,
    "forward_pre": nn.Module.register_forward_pre_hook,
    "backward": nn.Module.register_full_backward_hook,
    "backward_pre": nn.Module.register_full_backward_pre_hook,
    "forward_of_all": lambda base, hook: OF_ALL.register_module_forward_hook(hook),
    "forward_pre_of_all": lambda base, hook: OF_ALL.register_module_forward_pre_hook(hook),
    "backward_of_all": lambda base, hook: OF_ALL.register_module_full_backward_hook(hook),
    "backward_pre_of_all": lambda base, hook: OF_ALL.register_module_full_backward_pre_hook(hook),
}


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
def test_hooks_of_a_base_layer_are_run(register: Callable[..., RemovableHandle]) -> None:
    model = adapted(PATHS[0], "exact")
    base = next(iter(layers_of(model).values())).base_layer
    seen = []
    handle = register(base, lambda module, *_: seen.append(module))
    try:
        model(torch.randn(2, 6, dtype=torch.float64).requires_grad_()).sum().backward()
    finally:
        handle.remove()
    assert any(module is base for module in seen)
