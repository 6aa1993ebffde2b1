"""Weights that accelerate offloads to the CPU or to disk, and adapters on them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import lora2
from lora2 import BottleneckConfig, Lora2Config, SoraConfig
from lora2.errors import UserError
from unit.models import tokens
from unit.tiny_transformers import tiny_llama

_TARGETS = ["q_proj", "v_proj"]
CONFIGS = {
    "lora2": lambda: Lora2Config(target_modules=_TARGETS, init_weights=False),
    "penalty": lambda: Lora2Config(
        target_modules=_TARGETS, init_weights=False, orthogonality="penalty"
    ),
    "sora": lambda: SoraConfig(target_modules=_TARGETS, init_weights=False),
    "bottleneck": lambda: BottleneckConfig(target_modules=_TARGETS),
}
# torch's own for float32: an offloaded model adds up in another order.
TOLERANCE = {"atol": 1e-5, "rtol": 1.3e-6}


def offload(model: nn.Module, where: str, folder: Path) -> None:
    cpu = torch.device("cpu")
    if where == "cpu":
        cpu_offload(model, execution_device=cpu)
    else:
        disk_offload(model, str(folder / "offloaded"), execution_device=cpu)


def adapted(
    config: PeftConfig, prepare: Callable[[nn.Module], None] = lambda base: None
) -> PeftModel:
    base = tiny_llama()
    prepare(base)
    torch.manual_seed(1)
    return get_peft_model(base, config).eval()


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=tokens()).logits


def loss(model: nn.Module) -> Tensor:
    return model(input_ids=tokens(), labels=tokens()).loss


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> PeftConfig:
    return CONFIGS[request.param]()


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_a_model_offloaded_with_its_adapter_computes_and_is_saved(
    config: PeftConfig, where: str, tmp_path: Path
) -> None:
    model = adapted(config)
    expected = logits(model)
    offload(model, where, tmp_path)
    torch.testing.assert_close(logits(model), expected, **TOLERANCE)
    model.save_pretrained(tmp_path / "saved", save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "saved").eval()
    torch.testing.assert_close(logits(loaded), expected, **TOLERANCE)
    if not isinstance(config, BottleneckConfig):
        merged = logits(model.merge_and_unload())
        torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_that_is_offloaded_cannot_be_trained(config: PeftConfig, tmp_path: Path) -> None:
    model = adapted(config).train()
    offload(model, "cpu", tmp_path)
    with pytest.raises(UserError, match="'default' is offloaded and cannot be trained: load the"):
        loss(model)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_adapter_added_to_an_offloaded_model_stays_in_memory_and_trains(
    config: PeftConfig, where: str, tmp_path: Path
) -> None:
    plain = adapted(config)
    model = adapted(config, lambda base: offload(base, where, tmp_path))
    torch.testing.assert_close(logits(model), logits(plain), **TOLERANCE)
    for each in (model, plain):
        loss(each.train()).backward()
    trained = dict(plain.named_parameters())
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert found
    for name, parameter in found.items():
        torch.testing.assert_close(parameter.grad, trained[name].grad, **TOLERANCE)


@pytest.mark.parametrize("export", [lora2.export_lora, lora2.export_gguf, lora2.export_merged])
@pytest.mark.parametrize("order", ["before the adapter", "after the adapter"])
def test_an_offloaded_model_is_not_exported_and_keeps_its_adapter(
    export: Callable[..., object], order: str, tmp_path: Path
) -> None:
    first = order == "before the adapter"
    model = adapted(
        CONFIGS["lora2"](), lambda base: offload(base, "cpu", tmp_path) if first else None
    )
    if not first:
        offload(model, "cpu", tmp_path)
    expected = logits(model)
    with pytest.raises(UserError, match="weights are offloaded, and an export is read back on"):
        export(model, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    torch.testing.assert_close(logits(model), expected)
