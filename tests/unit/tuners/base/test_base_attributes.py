"""What models and PEFT's helpers read from an adapted layer as if it were the base layer."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora2 import BottleneckConfig, Lora2Config, SoraConfig
from unit.models import KINDS, LINEAR, Kind, Mlp, disturb, layers_of, rows

NAMES = {
    nn.Linear: ["in_features", "out_features"],
    Conv1D: ["nf", "nx"],
    nn.Embedding: ["num_embeddings", "embedding_dim", "padding_idx", "max_norm", "sparse"],
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): [
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode",
        "dilation", "groups",
    ],
    nn.MultiheadAttention: [
        "embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first",
        "add_zero_attn", "in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight",
        "v_proj_weight", "out_proj", "bias_k", "bias_v", "_qkv_same_embed_dim",
    ],
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
METHODS = {
    "lora2": Lora2Config(target_modules=["lin0"], k=3),
    "sora": SoraConfig(target_modules=["lin0"], r=3),
    "bottleneck": BottleneckConfig(target_modules=["lin0"]),
}


@every_kind
def test_layer_has_the_attributes_of_its_base_layer(kind: Kind) -> None:
    for layer in layers_of(get_peft_model(kind.model(), kind.config())).values():
        base: Any = layer.get_base_layer()
        for kind_of_layer, names in NAMES.items():
            if isinstance(base, kind_of_layer):
                for name in names:
                    found, expected = getattr(layer, name), getattr(base, name)
                    assert found is expected or found == expected
        absent = {name for names in NAMES.values() for name in names if not hasattr(base, name)}
        for name in absent - {"in_features", "out_features"}:
            assert not hasattr(layer, name)


# PEFT warns of its own layers.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "three" not in kind.name], ids=lambda kind: kind.name
)
def test_features_are_those_of_peft_lora(kind: Kind) -> None:
    ours = layers_of(get_peft_model(kind.model(), kind.config())).values()
    lora = get_peft_model(kind.model(), LoraConfig(target_modules=kind.target_modules, r=8))
    theirs = [m for m in lora.modules() if hasattr(m, "lora_A")]
    assert len(ours) == len(theirs)
    for layer, other in zip(ours, theirs, strict=True):
        assert (layer.in_features, layer.out_features) == (other.in_features, other.out_features)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_them_on(method: str) -> None:
    layer: Any = get_peft_model(Mlp(), METHODS[method]).base_model.model.lin0
    for each in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert (each.in_features, each.out_features) == (6, 10)
        assert each.bias is each.get_base_layer().bias
        assert not hasattr(each, "num_embeddings")


def test_attribute_is_written_to_the_base_layer() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    layer: Any = model.base_model.model.lin0
    layer.out_features = 7
    assert layer.get_base_layer().out_features == 7


class ReadingMlp(Mlp):
    """A model that reads the width from its layer, as DPR does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.lin0.out_features


# torch's own compiler does it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_model_that_reads_them_runs_and_compiles(method: str) -> None:
    model = get_peft_model(ReadingMlp(), METHODS[method]).eval()
    expected = model(rows())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows()), expected)


# Scaling


@pytest.mark.parametrize(("method", "factor"), [("lora2", 4 / 3), ("sora", 16 / 3)])
def test_scaling_is_a_dictionary_that_counts(method: str, factor: float) -> None:
    model = get_peft_model(Mlp(), METHODS[method]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    layer: Any = model.base_model.model.lin0
    assert layer.scaling == {"default": pytest.approx(factor)}
    delta = layer.get_delta_weight("default")
    layer.scaling["default"] *= 2
    torch.testing.assert_close(layer.get_delta_weight("default"), 2 * delta)
    layer.scale_layer(2)
    torch.testing.assert_close(layer.get_delta_weight("default"), 4 * delta)
    layer.unscale_layer(4)
    torch.testing.assert_close(layer.get_delta_weight("default"), delta)
    layer.set_scale("default", 0.5)
    torch.testing.assert_close(layer.get_delta_weight("default"), 0.5 * delta)
    layer.set_scale("none of this layer", 3)
    layer.unscale_layer()
    torch.testing.assert_close(layer.get_delta_weight("default"), delta)


def test_altered_scaling_counts_in_training_and_is_deleted_with_the_adapter() -> None:
    model = get_peft_model(Mlp(), LINEAR.config()).train()
    disturb(model)
    layers = list(layers_of(model).values())
    for layer in layers:
        layer.scale_layer(0)
    with model.disable_adapter():
        expected = model(rows())
    torch.testing.assert_close(model(rows()), expected)
    model.delete_adapter("default")
    assert all(layer.scaling == {} for layer in layers)


# Dtypes


@pytest.mark.parametrize("method", METHODS)
def test_disable_input_dtype_casting_ends_as_it_began(method: str) -> None:
    model = get_peft_model(Mlp(), METHODS[method])
    layer: Any = model.base_model.model.lin0
    expected = model(rows())
    with disable_input_dtype_casting(model):
        assert layer.cast_input_dtype_enabled is False
        torch.testing.assert_close(model(rows()), expected)
    assert layer.cast_input_dtype_enabled is True


def test_bottleneck_casts_its_input_unless_that_is_disabled() -> None:
    config = BottleneckConfig(target_modules=["0"])
    model = get_peft_model(nn.Sequential(nn.Linear(6, 10)).bfloat16(), config)
    assert model(rows().bfloat16()).dtype == torch.bfloat16
    with disable_input_dtype_casting(model), pytest.raises(RuntimeError, match="dtype"):
        model(rows().bfloat16())
