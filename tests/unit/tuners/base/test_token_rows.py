"""Rows of an embedding that are trained as they are, next to every adapter of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from lora2 import Lora2Config, RankAllocator, compact_adapter, truncate_adapter
from lora2.errors import UserError
from lora2.training.parameter_counts import count_parameters
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.token_rows.finding import count_numbers, rows_of, trained_rows
from lora2.tuners.bottleneck import BottleneckConfig
from lora2.tuners.sora import SoraConfig
from unit.models import EmbeddingModel, disturb, layers_of
from unit.tiny_transformers import tiny_llama

TOKENS = torch.tensor([[3, 5, 7, 3, 9, 5]])
ROWS = [3, 5]
BOTH = {"embed_tokens": ROWS, "lm_head": ROWS}
DIFFERENT = {"embed_tokens": ROWS, "lm_head": [4]}
CONFIGS = (Lora2Config, SoraConfig, BottleneckConfig)
every_form = pytest.mark.parametrize(
    ("tied", "indices"), [(True, ROWS), (True, BOTH), (False, ROWS), (False, DIFFERENT)]
)


def config(kind: type[TargetConfig] = Lora2Config, **fields: Any) -> TargetConfig:
    usual = {"trainable_token_indices": ROWS, "target_modules": ["q_proj", "down_proj"]}
    return kind(task_type="CAUSAL_LM", **usual | fields)


def adapted(tied: bool = True, **fields: Any) -> PeftModel:
    return get_peft_model(tiny_llama(tie_word_embeddings=tied), config(**fields)).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=TOKENS).logits


@torch.no_grad()
def disturb_rows(model: nn.Module, adapter_name: str = "default") -> None:
    generator = torch.Generator().manual_seed(0)
    for _, wrapper in trained_rows(model, adapter_name):
        rows = rows_of(wrapper, adapter_name)
        rows.add_(torch.randn(rows.shape, generator=generator))


def with_rows_of(model: PeftModel, base: Any) -> Any:
    """The oracle: the base model with the rows written into its weights."""
    names = {"embed_tokens": base.model.embed_tokens, "lm_head": base.lm_head}
    with torch.no_grad():
        for name, wrapper in trained_rows(model, "default"):
            weight = names[name.rpartition(".")[-1]].weight
            weight[wrapper.token_adapter.token_indices["default"]] = rows_of(wrapper, "default")
    return base


@every_form
def test_the_model_computes_with_the_trained_rows(tied: bool, indices: Any) -> None:
    model = adapted(tied, trainable_token_indices=indices)
    base = tiny_llama(tie_word_embeddings=tied)
    assert torch.equal(logits(model), logits(base))
    disturb_rows(model)
    torch.testing.assert_close(logits(model), logits(with_rows_of(model, base)))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny_llama(tie_word_embeddings=tied)))


@every_form
def test_adapters_are_saved_and_merged_with_their_rows(
    tied: bool, indices: Any, tmp_path: Path
) -> None:
    model = adapted(tied, trainable_token_indices=indices)
    disturb(model)
    disturb_rows(model)
    expected = logits(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    reloaded = PeftModel.from_pretrained(tiny_llama(tie_word_embeddings=tied), tmp_path).eval()
    assert torch.equal(logits(reloaded), expected)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)
    assert not [name for name, _ in merged.named_modules() if "token_adapter" in name]


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_the_rows_and_the_adapter_are_trained_and_counted(kind: type[TargetConfig]) -> None:
    model = get_peft_model(tiny_llama(tie_word_embeddings=True), config(kind))
    without = config(kind, trainable_token_indices=None)
    plain = get_peft_model(tiny_llama(tie_word_embeddings=True), without)
    more = count_parameters(model, ())["adapter"] - count_parameters(plain, ())["adapter"]
    assert more == len(ROWS) * 8 == count_numbers(tiny_llama(), ROWS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    (rows,) = (name for name in moved if "token_adapter" in name)
    prefix = model.base_model.prefix
    assert moved - {rows} == {name for name in moved if prefix in name} != set()


def test_pruning_and_cuts_leave_the_rows_as_they_are(tmp_path: Path) -> None:
    model = adapted(target_r=1, tinit=0, tfinal=0.25).train()
    allocator = RankAllocator(model, total_steps=8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(8):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    assert allocator.kept == allocator.budget == len(layers_of(model))
    ((_, wrapper),) = trained_rows(model, "default")
    rows, expected = rows_of(wrapper, "default").detach().clone(), logits(model.eval())
    compact_adapter(model)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    reloaded = PeftModel.from_pretrained(tiny_llama(tie_word_embeddings=True), tmp_path).eval()
    torch.testing.assert_close(logits(reloaded), expected, atol=1e-5, rtol=1e-4)
    truncate_adapter(model, rank=0.5)
    assert torch.equal(rows_of(wrapper, "default"), rows)


def test_an_adapter_without_rows_is_saved_and_loaded_next_to_one_with_some(tmp_path: Path) -> None:
    model = adapted()
    disturb_rows(model)
    expected, base = logits(model), logits(tiny_llama(tie_word_embeddings=True))
    model.add_adapter("other", config(trainable_token_indices=None))
    model.add_adapter("third", config(trainable_token_indices=[7]))
    assert "token_adapter" not in " ".join(get_peft_model_state_dict(model, adapter_name="other"))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    model.load_adapter(tmp_path / "other", "again")
    model.set_adapter("again")
    assert torch.equal(logits(model), base)
    model.set_adapter("default")
    assert torch.equal(logits(model), expected)
    names = ["default", "other", "__base__"]
    with torch.no_grad():
        mixed = model(input_ids=TOKENS.repeat(3, 1), adapter_names=names).logits
    torch.testing.assert_close(mixed, torch.cat([expected, base, base]))


def test_adapters_with_rows_are_loaded_without_memory_and_deleted(tmp_path: Path) -> None:
    model = adapted()
    disturb_rows(model)
    expected = logits(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    other = tiny_llama(tie_word_embeddings=True)
    reloaded = PeftModel.from_pretrained(other, tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(logits(reloaded), expected)
    reloaded.add_adapter("other", config(trainable_token_indices=[7, 8]))
    reloaded.delete_adapter("other")
    assert torch.equal(logits(reloaded), expected)


def test_a_sum_takes_the_rows_of_the_one_adapter_that_has_some() -> None:
    model = adapted()
    disturb_rows(model)
    model.add_adapter("other", config(trainable_token_indices=None))
    disturb(model)
    disturb(model, "other")
    model.base_model.add_weighted_adapter(["other", "default"], [1.0, 0.5], "sum")
    ((_, wrapper),) = trained_rows(model, "sum")
    assert torch.equal(rows_of(wrapper, "sum"), rows_of(wrapper, "default"))
    model.add_adapter("third", config(trainable_token_indices=[7]))
    with pytest.raises(UserError, match="each bring rows of tokens of their own"):
        model.base_model.add_weighted_adapter(["default", "third"], [1.0, 1.0], "both")
    model.base_model.add_weighted_adapter(["third", "default"], [1, 1], "first", heads="first")
    assert model.peft_config["first"].trainable_token_indices == [7]


def test_tied_rows_have_one_name() -> None:
    """torch.distributed.checkpoint loads a module that has two by one of them alone."""
    for model in (adapted(), adapted(trainable_token_indices=BOTH)):
        model.add_adapter("other", config(trainable_token_indices=[7]))
        names = [name for name in model.state_dict() if "trainable_tokens" in name]
        rows = [name for name in names if "delta" in name]
        assert [name.rpartition(".")[-1] for name in rows] == ["default", "other"]
        assert all("embed_tokens" in name for name in names)


def test_the_head_passes_on_its_other_attributes() -> None:
    model = adapted().get_base_model()
    assert model.lm_head.bias is None
    assert model.get_input_embeddings().num_embeddings == 30


@pytest.mark.parametrize("indices", [[-1], [1.0], [True], "ab", [3, 3], {"embed_tokens": 3}, (1,)])
def test_indices_that_are_none_are_refused(indices: Any) -> None:
    with pytest.raises(UserError, match=r"^trainable_token_indices"):
        config(trainable_token_indices=indices)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"trainable_token_indices": [30]}, "no token 30 among the 30 of model.embed_tokens"),
        ({"trainable_token_indices": {"wte": [1]}}, "no module of this model has the name 'wte'"),
        ({"trainable_token_indices": {"norm": [1]}}, "is a LlamaRMSNorm"),
        ({"target_modules": ["embed_tokens"]}, "model.embed_tokens is adapted as well"),
        ({"target_modules": ["lm_head"]}, "lm_head is adapted as well"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save trains all of model.embed_tokens"),
    ],
)
def test_rows_that_cannot_be_trained_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^trainable_token_indices: .*{said}"):
        adapted(**fields)


def test_a_model_without_a_known_embedding_needs_its_name() -> None:
    fields = {"target_modules": ["head"], "trainable_token_indices": [1]}
    with pytest.raises(UserError, match="which module of a EmbeddingModel is the embedding"):
        get_peft_model(EmbeddingModel(), Lora2Config(**fields))
    fields["trainable_token_indices"] = {"emb": [1]}
    assert get_peft_model(EmbeddingModel(), Lora2Config(**fields))


@pytest.mark.parametrize("indices", [DIFFERENT, {"lm_head": [4]}])
def test_rows_of_one_of_two_tied_modules_are_not_merged(indices: Any) -> None:
    model = adapted(trainable_token_indices=indices)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match="have one weight and other rows each"):
            merge()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("first", [ROWS, None])
def test_adapters_are_merged_together_of_which_one_has_rows(tied: bool, first: Any) -> None:
    model = adapted(tied, trainable_token_indices=first)
    model.add_adapter("other", config(trainable_token_indices=None if first else ROWS))
    for name in ("default", "other"):
        disturb(model, name)
        disturb_rows(model, name)
    model.base_model.set_adapter(["default", "other"])
    expected = logits(model)
    model.merge_adapter(["default", "other"])
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    merged = model.merge_and_unload(adapter_names=["default", "other"])
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-4)


def test_two_rows_of_one_token_are_neither_merged_nor_active_together() -> None:
    model = adapted()
    model.add_adapter("other", config(trainable_token_indices=[5, 7]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    both = ["default", "other"]
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(UserError, match=r"default and other each have a row for token 5 "):
            merge(adapter_names=both)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match=r"^adapters: default, other each have rows of tokens"):
        model.base_model.set_adapter(both)
    model.merge_adapter(["default"])
    with pytest.raises(UserError, match="each have a row for token 5 "):
        model.merge_adapter(["other"])
