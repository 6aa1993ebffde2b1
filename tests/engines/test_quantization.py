"""LoRA² and SoRA on linear layers that bitsandbytes and torchao have quantized, on a CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from engines.quantized_models import (
    KINDS,
    eight_bits,
    four_bits,
    four_bits_in_float32,
    load_quantized,
    logits,
    save_plain,
    torchao_int8_activations,
    train,
)
from lora2 import (
    Lora2Config,
    RankAllocator,
    SoraConfig,
    UserError,
    export_lora,
    export_merged,
)
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.layers.quantized import is_quantized, keep_layouts, values_of_weight

pytestmark = [
    pytest.mark.engines,
    # Both packages, while they are imported and used (bitsandbytes 0.50, torchao 0.18).
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.jit._script"),
]

every_kind = pytest.mark.parametrize("configuration", KINDS.values(), ids=KINDS)
both_methods = pytest.mark.parametrize("method", [Lora2Config, SoraConfig])
DTYPES = [torch.float32, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, Path]:
    """Plain Llamas by dtype."""
    return {dtype: save_plain(tmp_path_factory.mktemp("llama"), dtype) for dtype in DTYPES}


@pytest.fixture
def load(folders: dict[torch.dtype, Path]) -> Callable[..., Any]:
    """Load a Llama, quantized while it is read."""
    return lambda configuration, dtype=torch.float32: load_quantized(folders[dtype], configuration)


def config(method: type[PeftConfig] = Lora2Config, **fields: Any) -> PeftConfig:
    sizes = {"k": 4, "init_r": 4} if method is Lora2Config else {"r": 4}
    return method(**({"task_type": "CAUSAL_LM"} | sizes | fields))


def adapted(base: nn.Module, method: type[PeftConfig] = Lora2Config, **fields: Any) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(base, config(method, **fields))


def layers(model: nn.Module) -> Iterator[AdaptedLayer]:
    return (module for module in model.modules() if isinstance(module, AdaptedLayer))


def base_weights(model: nn.Module) -> list[Tensor]:
    return [values_of_weight(layer.get_base_layer()).clone() for layer in layers(model)]


@torch.no_grad()
def relative(found: Tensor, expected: Tensor) -> float:
    """Length of the difference, relative to the expected one's."""
    return float((found - expected).float().norm() / expected.float().norm())


@both_methods
@every_dtype
@every_kind
def test_trains_and_reloads_on_a_base_quantized_anew(
    load: Callable[..., Any],
    configuration: Callable[[], Any],
    dtype: torch.dtype,
    method: type[PeftConfig],
    tmp_path: Path,
) -> None:
    model = adapted(load(configuration, dtype), method)
    assert all(is_quantized(layer.get_base_layer()) for layer in layers(model))
    weights = base_weights(model)
    losses = train(model)
    assert losses[-1] < 0.8 * losses[0]
    assert all(map(torch.equal, base_weights(model), weights))
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(load(configuration, dtype), tmp_path)
    assert torch.equal(logits(reloaded), logits(model))
    base = load(configuration, dtype)
    keep_layouts(base)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base))


@every_kind
def test_pruned_adapter_trains_on_and_reloads(
    load: Callable[..., Any], configuration: Callable[[], Any], tmp_path: Path
) -> None:
    model = adapted(load(configuration), target_r=2, tinit=2, tfinal=2)
    train(model, 6, RankAllocator(model, total_steps=6).step)
    kept = [layer.parameters_of("default")["lam"].count_nonzero() for layer in layers(model)]
    assert sum(kept) == 2 * len(kept)
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(load(configuration), tmp_path)
    torch.testing.assert_close(logits(reloaded), logits(model), atol=1e-5, rtol=1e-5)


@every_dtype
@every_kind
def test_gradient_of_the_input_is_that_of_the_dequantized_weight(
    load: Callable[..., Any], configuration: Callable[[], Any], dtype: torch.dtype
) -> None:
    model = adapted(load(configuration, dtype), init_weights=False).train()
    layer = next(layers(model))
    x = torch.randn(3, 64, dtype=dtype, requires_grad=True)
    layer(x).sum().backward()
    weight = values_of_weight(layer.get_base_layer()) + layer.get_delta_weight("default")
    # bfloat16 somewhere: in the activations, or in the dtype that 4-bit layers compute in.
    assert relative(x.grad, weight.sum(0).expand(3, -1)) < 0.01


@every_kind
def test_trains_on_after_an_evaluation(
    load: Callable[..., Any], configuration: Callable[[], Any]
) -> None:
    once, twice = adapted(load(configuration)), adapted(load(configuration))
    logits(twice.eval())
    assert train(twice, steps=3) == train(once, steps=3)
    assert all(map(torch.equal, base_weights(once), base_weights(twice)))


@pytest.mark.parametrize("configuration", [four_bits_in_float32, four_bits])
def test_base_that_was_evaluated_before_it_is_adapted_trains(
    load: Callable[..., Any], configuration: Callable[[], Any]
) -> None:
    fresh, used = load(configuration), load(configuration)
    logits(used)
    fresh, used = adapted(fresh), adapted(used)
    # Where bitsandbytes packs a weight, it rounds its scales to bfloat16.
    for one, other in zip(base_weights(used), base_weights(fresh), strict=True):
        assert relative(one, other) < 2**-7
    losses = train(used)
    assert losses[-1] < 0.8 * losses[0]


@both_methods
@every_dtype
@every_kind
def test_merge_equals_forward_and_unmerge_brings_the_quantized_layers_back(
    load: Callable[..., Any],
    configuration: Callable[[], Any],
    dtype: torch.dtype,
    method: type[PeftConfig],
) -> None:
    model = adapted(load(configuration, dtype), method)
    train(model)
    expected = logits(model)
    # bitsandbytes' int8 layer rounds its activations too, but not in training on a CPU.
    unrounded = logits(model.train())
    model.eval()
    quantized = [layer.get_base_layer() for layer in layers(model)]
    model.merge_adapter()
    assert {type(layer.get_base_layer()) for layer in layers(model)} == {nn.Linear}
    assert {layer.weight.dtype for layer in layers(model)} == {dtype}
    exact = dtype == torch.float32 and configuration.__name__ != "four_bits"
    assert relative(logits(model), unrounded) < (1e-5 if exact else 0.03)
    model.unmerge_adapter()
    assert [layer.get_base_layer() for layer in layers(model)] == quantized
    assert torch.equal(logits(model), expected)


@every_dtype
@pytest.mark.parametrize("prepared", [False, True], ids=["as_loaded", "prepared_for_training"])
@pytest.mark.parametrize("targets", [None, ["q_proj"]], ids=["all", "queries"])
@every_kind
def test_merge_and_unload_is_saved_and_read_as_a_plain_model(
    load: Callable[..., Any],
    configuration: Callable[[], Any],
    targets: list[str] | None,
    prepared: bool,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    base = load(configuration, dtype)
    if prepared:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    model = adapted(base, init_weights=False, target_modules=targets).eval()
    expected = logits(model)
    merged = model.merge_and_unload(safe_merge=True)
    assert relative(logits(merged), expected) < 0.03
    merged.save_pretrained(tmp_path)
    plain = LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert not any(is_quantized(module) for module in plain.modules())
    assert not hasattr(plain.config, "quantization_config")
    assert torch.equal(logits(plain), logits(merged))
    losses = train(adapted(plain), steps=3)
    assert losses[-1] < losses[0]


def test_quantized_activations_that_stop_the_gradient_are_refused(
    load: Callable[..., Any],
) -> None:
    model = adapted(load(torchao_int8_activations))
    logits(model.eval())
    with pytest.raises(UserError, match=r"'default'.*Int8Tensor.*no gradient"):
        train(model, steps=1)


def test_merge_into_layers_that_still_hold_floats() -> None:
    import bitsandbytes

    # The one is quantized when it is moved to its device, the other in every forward pass.
    for layer in (
        bitsandbytes.nn.Linear4bit(64, 32),
        bitsandbytes.nn.Linear8bitLt(64, 32, has_fp16_weights=True),
    ):
        weight = layer.weight.detach().clone()
        model = adapted(
            nn.Sequential(layer), init_weights=False, target_modules=["0"], task_type=None
        )
        delta = next(layers(model)).get_delta_weight("default")
        assert torch.equal(model.merge_and_unload()[0].weight, weight + delta)


def test_merge_of_eight_bits_before_the_first_forward_pass(load: Callable[..., Any]) -> None:
    # The scales of its rows lie elsewhere until then.
    before, after = adapted(load(eight_bits)), adapted(load(eight_bits))
    logits(after.eval())
    for one, other in zip(base_weights(before), base_weights(after), strict=True):
        assert torch.equal(one, other)


def test_quantized_embedding_is_refused() -> None:
    import bitsandbytes

    model = nn.Sequential(bitsandbytes.nn.Embedding8bit(30, 64))
    with pytest.raises(UserError, match=r"'0' is a quantized Embedding8bit"):
        adapted(model, target_modules=["0"], task_type=None)


def test_four_bits_of_a_half_precision_model_are_not_rounded_before_the_sum(
    load: Callable[..., Any],
) -> None:
    for weight in base_weights(adapted(load(four_bits_in_float32, torch.bfloat16))):
        assert weight.dtype == torch.float32
        assert not torch.equal(weight.bfloat16().float(), weight)


# Exported


@every_kind
def test_adapter_on_a_quantized_base_is_exported(
    configuration: Callable[[], Any], load: Callable[..., Any], tmp_path: Path
) -> None:
    model = adapted(load(configuration))
    train(model)
    expected = logits(model.eval())
    export_lora(model, tmp_path / "lora")
    exported = PeftModel.from_pretrained(load(configuration), tmp_path / "lora").eval()
    without = logits(load(configuration).eval())
    assert relative(logits(exported), expected) < 0.1 * relative(without, expected)


@pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")
@every_kind
def test_model_on_a_quantized_base_is_exported_merged(
    configuration: Callable[[], Any], load: Callable[..., Any], tmp_path: Path
) -> None:
    model = adapted(load(configuration))
    train(model)
    expected = logits(model.eval())
    export_merged(model, tmp_path / "merged")
    reloaded = LlamaForCausalLM.from_pretrained(tmp_path / "merged").eval()
    without = logits(load(configuration).eval())
    assert not any(is_quantized(module) for module in reloaded.modules())
    assert relative(logits(reloaded), expected) < 0.1 * relative(without, expected)
