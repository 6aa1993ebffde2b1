"""Adapters in the weights of experts, which are parameters: one for each expert's matrix."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lora2 import Lora2Config, RankAllocator, compact_adapter
from lora2.tuners.base.layers.experts import parameter_of
from oracle import Factors, delta
from unit.mixtures import (
    EXPERTS,
    GPT_OSS,
    MIXTRAL,
    MIXTURES,
    PARAMETERS,
    TwoExperts,
    logits,
    of_experts,
    tokens,
)
from unit.models import difference, disturb, gradient_checkpointing, layers_of

STEPS = 12
PREFIX = "base_model.model."


def kept_values(model: nn.Module) -> dict[str, int]:
    return {
        name: int((layer.lora2_lambda["default"] != 0).sum())
        for name, layer in layers_of(model).items()
    }


def train(model: PeftModel, steps: int = STEPS, allocator: RankAllocator | None = None) -> float:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        loss = model(tokens(), labels=tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if allocator is not None:
            allocator.step()
    model.eval()
    return float(loss.detach())


def pruned(mixture, **fields) -> PeftModel:
    model = mixture.adapted(init_weights=True, target_r=1.5, **fields)
    train(model, allocator=RankAllocator(model, STEPS))
    return model


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: mixture.name)
class TestMixture:
    def test_each_expert_has_an_adapter_for_each_parameter(self, mixture):
        found = Counter(map(parameter_of, of_experts(mixture.adapted())))
        assert len(found) == 2 * mixture.layers
        assert set(found.values()) == {EXPERTS}

    @pytest.mark.parametrize("form", ["exact", "penalty"])
    def test_starts_as_the_base_model_and_learns(self, mixture, form):
        model = mixture.adapted(init_weights=True, orthogonality=form)
        assert torch.equal(logits(model), logits(mixture.model()))
        first = train(model, 1)
        assert train(model) < first
        changes = [layer.get_delta_weight("default") for layer in of_experts(model).values()]
        assert all(change.abs().max() > 0 for change in changes)
        frozen = mixture.model().state_dict()
        for name, parameter in model.get_base_model().named_parameters():
            if "lora2_" not in name:
                torch.testing.assert_close(parameter, frozen[name.replace(".base_layer", "")])

    def test_the_budget_is_shared_by_all_experts(self, mixture):
        model = pruned(mixture)
        kept = kept_values(model)
        assert sum(kept.values()) == round(1.5 * len(kept))
        assert len({kept[name] for name in of_experts(model)}) > 1

    def test_a_pruned_adapter_is_saved_and_loaded_with_the_rank_of_each_expert(
        self, mixture, tmp_path: Path
    ):
        model = pruned(mixture)
        expected = logits(model)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(mixture.model(), tmp_path).eval()
        assert difference(logits(loaded), expected) < 1e-6
        ranks = {name: layer.sizes_of("default")[1] for name, layer in layers_of(loaded).items()}
        assert ranks == kept_values(model)
        compact_adapter(model)
        assert difference(logits(model), expected) < 1e-6

    def test_merge_and_unmerge(self, mixture):
        model = mixture.adapted()
        expected, before = logits(model), mixture.model().state_dict()
        model.merge_adapter(safe_merge=True)
        assert difference(logits(model), expected) < 1e-5
        with model.disable_adapter():
            assert difference(logits(model), logits(mixture.model())) < 1e-5
        model.unmerge_adapter() if any(m.merged for m in layers_of(model).values()) else None
        assert difference(logits(model), expected) < 1e-5
        merged = model.merge_and_unload()
        assert difference(logits(merged), expected) < 1e-5
        assert merged.state_dict().keys() == before.keys()

    def test_disabled_or_unloaded_it_is_the_base_model(self, mixture):
        model, expected = mixture.adapted(), logits(mixture.model())
        assert difference(logits(model), expected) > 1e-3
        with model.disable_adapter():
            assert torch.equal(logits(model), expected)
        assert torch.equal(logits(model.unload()), expected)

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_gradient_checkpointing_changes_no_gradient(self, mixture, reentrant):
        def gradients(checkpointing: bool) -> list[torch.Tensor]:
            model = mixture.adapted().train()
            with gradient_checkpointing(model, reentrant) if checkpointing else nullcontext():
                model(tokens(), labels=tokens(), use_cache=False).loss.backward()
            return [p.grad for p in model.parameters() if p.requires_grad]

        for found, expected in zip(gradients(True), gradients(False), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)

    def test_the_forward_pass_is_that_of_a_loop_over_experts(self, mixture):
        """In float64, with the paper's formula for each expert and the weights in PEFT's layout."""
        model, expected = mixture.adapted().double(), mixture.model().double()
        for each in (model, expected):
            # The default one, a grouped product, takes no float64.
            each.set_experts_implementation("eager")
        with torch.no_grad():
            for name, layer in layers_of(model).items():
                stored = layer.parameters_of("default")
                factors = Factors(stored.pop("v").mT, **stored)
                change = delta(factors, layer.scaling["default"], orthonormalize=True)
                own = parameter_of(name)
                weight = expected.get_parameter((own or f"{name}.weight").removeprefix(PREFIX))
                if own is None:
                    weight += change.mT
                else:
                    # gpt-oss stores [experts, d_in, d_out], the paper's orientation.
                    index = int(name.rpartition(".")[-1])
                    weight[index] += change if mixture is GPT_OSS else change.mT
        assert difference(logits(model), logits(expected)) < 1e-9


def two_experts(**fields) -> PeftModel:
    torch.manual_seed(0)
    sizes = {"k": 2, "init_r": 2}
    config = Lora2Config(target_modules=[], target_parameters=["experts.weight"], **sizes, **fields)
    return get_peft_model(TwoExperts(), config)


def test_the_module_around_experts_has_their_attributes():
    model = two_experts()
    experts = model.base_model.model.experts
    assert experts.width == 4
    assert experts.weight.shape == (2, 4, 4)
    with pytest.raises(AttributeError):
        experts.height  # noqa: B018


def test_autocast_adds_a_change_in_the_dtype_of_the_weight():
    model = two_experts(init_weights=False)
    x = torch.randn(3, 4)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert difference(found.float(), expected) < 0.05


def test_several_adapters_are_added_up_and_each_can_go():
    model = MIXTRAL.adapted()
    alone = logits(model)
    other = {"target_parameters": PARAMETERS[1:], "k": 2, "init_r": 1, "init_weights": False}
    model.add_adapter("other", Lora2Config(target_modules=["q_proj"], **other))
    assert torch.equal(logits(model), alone)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert difference(both, alone) > 1e-3
    model.merge_adapter()
    assert difference(logits(model), both) < 1e-5
    model.unmerge_adapter()
    model.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum")
    model.set_adapter("sum")
    assert difference(logits(model), both) < 1e-5
    model.set_adapter("default")
    for name in ("sum", "other"):
        model.delete_adapter(name)
    assert difference(logits(model), alone) < 1e-6


def test_a_sum_of_adapters_is_saved_and_loaded(tmp_path: Path):
    """The first of them adapts fewer parameters than the sum does."""
    model = MIXTRAL.adapted(target_parameters=PARAMETERS[1:])
    fields = {"k": 2, "init_r": 1, "init_weights": False}
    model.add_adapter(
        "other", Lora2Config(target_modules=[], target_parameters=PARAMETERS[:1], **fields)
    )
    model.add_weighted_adapter(["default", "other"], [0.5, 1.0], "a_half")
    model.set_adapter("a_half")
    model.save_pretrained(tmp_path, selected_adapters=["a_half"])
    loaded = PeftModel.from_pretrained(MIXTRAL.model(), tmp_path / "a_half").eval()
    assert difference(logits(loaded), logits(model)) < 1e-6


def test_a_pattern_for_a_parameter_holds_for_all_its_experts_but_those_with_their_own():
    pattern = {"down_proj.2": 1, "experts.down_proj": 2}
    model = MIXTRAL.adapted(rank_pattern=pattern, k_pattern=pattern)
    sizes = {n: m.sizes_of("default") for n, m in of_experts(model).items() if "down_proj" in n}
    assert all(size == ((1, 1) if n.endswith(".2") else (2, 2)) for n, size in sizes.items())


def test_layers_to_transform_holds_for_parameters():
    model = MIXTRAL.adapted(layers_to_transform=[1])
    assert all(".layers.1." in name for name in layers_of(model))


def test_inference_mode_can_merge_and_training_goes_on():
    model = MIXTRAL.adapted()
    expected = logits(model)
    with torch.inference_mode():
        model.merge_adapter()
        assert difference(model(tokens()).logits, expected) < 1e-5
        model.unmerge_adapter()
    train(model, 1)


def test_a_weight_made_in_inference_mode_is_replaced_by_a_merge():
    with torch.inference_mode():
        base = TwoExperts()
    made = base.experts.weight
    config = Lora2Config(target_modules=[], target_parameters=["experts.weight"], k=2, init_r=2)
    model = get_peft_model(base, config)
    disturb(model)
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = model(x)
        model.merge_adapter()
        assert difference(model(x), expected) < 1e-5
        assert model.base_model.model.experts.weight is not made


def test_update_and_allocate_prunes_experts():
    model = MIXTRAL.adapted(init_weights=True, target_r=1, total_step=STEPS)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    model.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
    kept = kept_values(model)
    assert sum(kept.values()) == len(kept)


@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")
def test_compiled_it_computes_the_same():
    torch._dynamo.reset()
    model = two_experts(init_weights=False)
    x = torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_trainable_parameters_are_those_of_lora_with_small_factors():
    counts = {}
    for kind, config in (
        ("lora", LoraConfig(r=3, target_modules=[], target_parameters=PARAMETERS)),
        ("lora2", Lora2Config(k=3, init_r=3, target_modules=[], target_parameters=PARAMETERS)),
    ):
        model = get_peft_model(MIXTRAL.model(), config)
        counts[kind] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts["lora2"] - counts["lora"] == 2 * MIXTRAL.layers * EXPERTS * (2 * 3 * 3 + 3)


def test_half_precision_is_merged_with_one_rounding():
    base = TwoExperts().to(torch.bfloat16)
    config = Lora2Config(target_modules=[], target_parameters=["experts.weight"], k=2, init_r=2)
    model = get_peft_model(base, config)
    disturb(model)
    before = base.experts.weight.float()
    changes = [layer.get_delta_weight("default").float() for layer in layers_of(model).values()]
    model.merge_adapter()
    expected = (before + torch.stack(changes)).to(torch.bfloat16)
    assert torch.equal(model.base_model.model.experts.weight, expected)


class Logits(nn.Module):
    """What torch.jit.trace can save of a model: tensors in, a tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(input_ids=x, use_cache=False).logits


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_computes_the_same():
    module = Logits(MIXTRAL.adapted())
    traced = torch.jit.trace(module, (tokens(),), check_trace=False)
    other = (tokens() + 3) % 40
    torch.testing.assert_close(traced(other), module(other), atol=1e-5, rtol=1e-4)
    assert difference(traced(other), Logits(MIXTRAL.model())(other)) > 1e-3
