"""diffusers' models take LoRA² adapters: weights of adapters, fusing, and the exported form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from lora2 import Lora2Config, RankAllocator, export_lora
from unit.models import difference, disturb, layers_of

pytestmark = pytest.mark.engines

Case = tuple[Callable[[], Any], dict[str, Any], list[str]]


def unet() -> Any:
    """A tiny UNet with convolutions and cross attention."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
    ).eval()


def flux() -> Any:
    """A tiny Flux transformer."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    ).eval()


ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CASES: dict[str, Case] = {
    "unet": (
        unet,
        {
            "sample": torch.linspace(-1, 1, 256).view(1, 4, 8, 8).sin(),
            "timestep": torch.tensor(3),
            "encoder_hidden_states": torch.linspace(-1, 1, 24).view(1, 3, 8),
        },
        [*ATTENTION, "conv1", "conv2", "proj_in"],
    ),
    "flux": (
        flux,
        {
            "hidden_states": torch.linspace(-1, 1, 16).view(1, 4, 4),
            "encoder_hidden_states": torch.linspace(-1, 1, 24).view(1, 3, 8),
            "pooled_projections": torch.linspace(-1, 1, 8).view(1, 8),
            "timestep": torch.tensor([0.3]),
            "img_ids": torch.arange(12.0).view(4, 3),
            "txt_ids": torch.zeros(3, 3),
        },
        [*ATTENTION, "add_q_proj", "proj_mlp"],
    ),
}
every_model = pytest.mark.parametrize("name", CASES)


def config(name: str, **fields: Any) -> Lora2Config:
    return Lora2Config(target_modules=CASES[name][2], k=2, init_r=2, **fields)


def with_adapters(name: str, *adapter_names: str) -> Any:
    model = CASES[name][0]()
    for seed, adapter_name in enumerate(adapter_names):
        model.add_adapter(config(name), adapter_name)
        disturb(model, adapter_name, seed)
    return model


@torch.no_grad()
def output(model: nn.Module, name: str) -> Tensor:
    return model(**CASES[name][1]).sample


@torch.no_grad()
def base_output(name: str, changes: dict[str, Tensor]) -> Tensor:
    """What the base model gives with these changes of its weights."""
    model = CASES[name][0]()
    for module, change in changes.items():
        model.get_submodule(module).weight.add_(change)
    return output(model, name)


# What PEFT says of any second adapter of a model that it is injected into.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
@every_model
def test_weights_of_adapters_multiply_their_changes(name: str) -> None:
    model = with_adapters(name, "first", "second")
    model.set_adapters(["first", "second"], [0.5, -0.25])
    found = output(model, name)
    model.set_adapters(["first", "second"], [1.0, 1.0])
    weighted = {
        module: 0.5 * layer.get_delta_weight("first") - 0.25 * layer.get_delta_weight("second")
        for module, layer in layers_of(model).items()
    }
    assert difference(found, base_output(name, weighted)) < 1e-5
    model.set_adapters(["first"], [0.0])
    assert difference(output(model, name), base_output(name, {})) < 1e-6


@every_model
def test_fused_model_computes_the_same_and_unfused_is_the_base(name: str) -> None:
    model = with_adapters(name, "first")
    expected = output(model, name)
    model.fuse_lora()
    assert difference(output(model, name), expected) < 1e-5
    model.unfuse_lora()
    assert difference(output(model, name), expected) < 1e-5
    model.fuse_lora(lora_scale=0.5)
    model.set_adapters(["first"], [0.5])
    half = {n: layer.get_delta_weight("first") for n, layer in layers_of(model).items()}
    assert difference(output(model, name), base_output(name, half)) < 1e-5
    model.disable_adapters()
    assert difference(output(model, name), base_output(name, {})) < 1e-5


@every_model
def test_exported_adapter_is_loaded_and_saved_by_diffusers(name: str, tmp_path: Path) -> None:
    make, batch, _ = CASES[name]
    adapted = get_peft_model(make(), config(name)).eval()
    disturb(adapted)
    export_lora(adapted, tmp_path / "lora", batch=batch)
    expected = output(adapted, name)
    model = make()
    file = "adapter_model.safetensors"
    model.load_lora_adapter(tmp_path / "lora", weight_name=file, prefix="base_model.model")
    assert difference(output(model, name), expected) < 1e-5
    adapter_name = next(iter(model.peft_config))
    model.save_lora_adapter(tmp_path / "saved", adapter_name=adapter_name)
    reloaded = make()
    file = "pytorch_lora_weights.safetensors"
    reloaded.load_lora_adapter(tmp_path / "saved", weight_name=file, prefix=None)
    assert difference(output(reloaded, name), expected) < 1e-5


@every_model
def test_adapter_trains_and_is_pruned(name: str) -> None:
    model = CASES[name][0]()
    model.add_adapter(config(name, target_r=1, tinit=0, tfinal=0.25))
    allocator = RankAllocator(model.train(), 8)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    losses = []
    for _ in range(8):
        loss = (model(**CASES[name][1]).sample - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        allocator.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert allocator.kept == allocator.budget == len(layers_of(model))
