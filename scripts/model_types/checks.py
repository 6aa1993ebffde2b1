"""What LoRA and LoRA² are asked on a model: each check returns "yes", or what is otherwise."""

from __future__ import annotations

import copy
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

import lora2

from .tiny_models import computed, outputs, tiny_model

METHODS = ("LoRA", "LoRA²")
Check = Callable[[nn.Module, Mapping[str, Tensor], str], str]
_MOST_SECONDS = 120
_STEPS = 6


@dataclass
class Outcome:
    """What a model type did; one word or sentence for each method and check."""

    model_type: str
    architecture: str
    kind: str
    unbuilt: str | None = None
    cells: dict[str, dict[str, str]] = field(default_factory=dict)


def adapted(model: nn.Module, method: str, name: str = "default") -> Any:
    """Return a model with an adapter of a method on all linear layers."""
    torch.manual_seed(3)
    if method == "LoRA":
        config: Any = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    else:
        config = lora2.Lora2Config(k=4, init_r=4, target_r=2, target_modules="all-linear")
    return peft.get_peft_model(model, config, adapter_name=name)


def trained(model: Any, inputs: Mapping[str, Tensor], prunes: bool = False) -> Any:
    """Train an adapter for a few steps, in evaluation mode, since dropout is not the question."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    allocator = lora2.RankAllocator(model, total_steps=_STEPS) if prunes else None
    for _ in range(_STEPS):
        loss = (computed(model, inputs) - 1).square().mean()
        if not loss.isfinite():
            raise ValueError("the loss is NaN or infinite")
        loss.backward()
        optimizer.step()
        if allocator is not None:
            allocator.step()
        optimizer.zero_grad()
    return model


def identity(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """At the start the adapter changes nothing."""
    before = outputs(model, inputs)
    return _same(outputs(adapted(model, method).eval(), inputs), before)


def training(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """Training changes what the model computes."""
    before = outputs(model, inputs)
    after = outputs(trained(adapted(model, method).eval(), inputs), inputs)
    return "no change" if torch.allclose(before, after, atol=1e-7) else "yes"


def pruning(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """Half of the singular values are left."""
    if method == "LoRA":
        return "–"
    model = trained(adapted(model, method).eval(), inputs, prunes=True)
    values = [p for name, p in model.named_parameters() if "lora2_lambda" in name]
    kept, count = (sum(map(how, values)) for how in (torch.count_nonzero, torch.numel))
    return "yes" if kept == count // 2 else f"{int(kept)} of {int(count)} kept"


def reloading(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """A saved adapter computes the same on a new base model."""
    again = copy.deepcopy(model)
    model = trained(adapted(model, method).eval(), inputs)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(again, folder).eval()
    return _same(outputs(loaded, inputs), outputs(model, inputs))


def merging(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """The merged model computes the same."""
    model = trained(adapted(model, method).eval(), inputs)
    before = outputs(model, inputs)
    return _same(outputs(model.merge_and_unload(), inputs), before)


def disabling(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """With the adapter off, the model computes what the base model does."""
    before = outputs(model, inputs)
    model = trained(adapted(model, method).eval(), inputs)
    with model.disable_adapter():
        return _same(outputs(model, inputs), before)


def export(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """Written as a LoRA, the adapter computes the same under PEFT's LoRA."""
    if method == "LoRA":
        return "–"
    again = copy.deepcopy(model)
    model = trained(adapted(model, method).eval(), inputs)
    with tempfile.TemporaryDirectory() as folder:
        lora2.export_lora(model, Path(folder) / "lora", batch=dict(inputs))
        loaded = peft.PeftModel.from_pretrained(again, Path(folder) / "lora").eval()
    return _same(outputs(loaded, inputs), outputs(model, inputs))


def checkpointing(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """With gradient checkpointing the gradients are the same."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        return "–"
    model = trained(adapted(model, method), inputs).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = _gradients(model, inputs)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = _gradients(model, inputs)
    differs = max(
        float((again[name] - gradient).abs().max() / (gradient.abs().max() + 1e-6))
        for name, gradient in plain.items()
    )
    return "yes" if differs < 1e-3 else f"gradients differ by {differs:.0e}"


_CHECKS = (
    identity, training, pruning, reloading, merging, disabling, export, checkpointing,
)  # fmt: skip
CHECKS: Mapping[str, Check] = {check.__name__: check for check in _CHECKS}
"""By name, in the order of the page's columns."""


def checked(kind: str, model_type: str, architecture: str) -> Outcome:
    """Put both methods through all checks on one model type."""
    outcome = Outcome(model_type, architecture, kind)
    try:
        with time_limit(_MOST_SECONDS):
            model, inputs = tiny_model(architecture, kind)
    except Exception as error:
        outcome.unbuilt = _sentence(error)
        return outcome
    for method in METHODS:
        outcome.cells[method] = {}
        for name, check in CHECKS.items():
            try:
                with time_limit(_MOST_SECONDS):
                    said = check(copy.deepcopy(model), inputs, method)
            except Exception as error:
                said = _sentence(error)
            outcome.cells[method][name] = said
    return outcome


def _gradients(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(5)
    (computed(model, inputs) - 1).square().mean().backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: gradient.clone() for name, gradient in named.items()}


def _same(one: Tensor, other: Tensor) -> str:
    scale = float(other.abs().max()) + 1e-6
    differs = float((one - other).abs().max()) / scale
    return "yes" if differs < 1e-4 else f"differs by {differs:.0e}"


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:160]}"


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
