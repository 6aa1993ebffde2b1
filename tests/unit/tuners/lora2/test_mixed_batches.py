"""Batches whose rows use different adapters."""

import pytest
import torch
from peft import get_peft_model

from lora2 import Lora2Config, UserError
from unit.kind_case import with_three_adapters
from unit.models import KINDS, LINEAR, Kind, disturb
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama

ATTENTION = [kind for kind in KINDS if kind.name.startswith("attention")]


@pytest.mark.parametrize("kind", ATTENTION, ids=lambda kind: kind.name)
def test_mixed_batch_is_refused_by_attention(kind: Kind) -> None:
    model, x = with_three_adapters(kind), kind.inputs()
    with pytest.raises(UserError, match="batch of their own"):
        model(x, adapter_names=["default", "wide", "thin"])


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ATTENTION], ids=lambda kind: kind.name
)
def test_mixed_batch_equals_each_adapter_alone(kind: Kind) -> None:
    model, x = with_three_adapters(kind), kind.inputs()
    x = torch.cat([x, x])
    names = (["default", "__base__", "wide", "thin"] * len(x))[: len(x)]
    mixed = model(x, adapter_names=names)
    alone = {"__base__": kind.model()(x)}
    for name in ("default", "wide", "thin"):
        model.set_adapter(name)
        alone[name] = model(x)
    model.set_adapter("default")
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone[name][row], atol=1e-5, rtol=1e-5)
    assert torch.equal(model(x), alone["default"])


def test_mixed_batch_refuses_an_unknown_name_and_training_mode() -> None:
    model, x = with_three_adapters(LINEAR), LINEAR.inputs()
    with pytest.raises(ValueError, match=r"non-existing adapter.*: missing"):
        model(x, adapter_names=["default", "missing", "__base__", "wide", "thin"])
    with pytest.raises(ValueError, match="one name for each row"):
        model(x, adapter_names=["default"])
    with pytest.raises(ValueError, match="training mode"):
        model.train()(x, adapter_names=["default"] * len(x))
    # The hooks of the refused calls are gone.
    assert model.eval()(x).shape == (len(x), 2)


def test_mixed_batch_refuses_merged_adapters() -> None:
    model, x = with_three_adapters(LINEAR), LINEAR.inputs()
    model.merge_adapter()
    with pytest.raises(ValueError, match="call `unmerge_adapter` first"):
        model(x, adapter_names=["default"] * len(x))


def test_mixed_batch_covers_modules_to_save() -> None:
    fields = {"target_modules": ["query"], "modules_to_save": ["classifier"], "k": 2}
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS", **fields)).eval()
    model.add_adapter("other", Lora2Config(task_type="SEQ_CLS", **fields))
    for name in ("default", "other"):
        disturb(model, name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save.other" in name:
                parameter.add_(1.0)
    batch = bert_batch(3)
    mixed = model(**batch, adapter_names=["other", "__base__", "default"]).logits
    model.set_adapter("other")
    torch.testing.assert_close(mixed[0], model(**batch).logits[0])
    model.set_adapter("default")
    torch.testing.assert_close(mixed[2], model(**batch).logits[2])
    torch.testing.assert_close(mixed[1], tiny_bert()(**batch).logits[1])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_takes_mixed_batches(num_beams: int) -> None:
    config = {"target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM", "k": 2}
    model = get_peft_model(tiny_llama(), Lora2Config(**config)).eval()
    model.add_adapter("other", Lora2Config(**config))
    disturb(model, "default", seed=1)
    disturb(model, "other", seed=2)
    input_ids = torch.tensor([[3, 4, 5], [3, 4, 5], [3, 4, 5]])
    options = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "max_new_tokens": 5,
        "do_sample": False,
        "num_beams": num_beams,
    }
    mixed = model.generate(**options, adapter_names=["default", "other", "__base__"])
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        alone[name] = model.generate(**options)[0].tolist()
    with model.disable_adapter():
        alone["__base__"] = model.generate(**options)[0].tolist()
    assert len({tuple(sequence) for sequence in alone.values()}) == 3
    expected = [alone["default"], alone["other"], alone["__base__"]]
    for row, sequence in zip(mixed.tolist(), expected, strict=True):
        assert row[: len(sequence)] == sequence


def test_a_batch_mixes_an_adapter_with_a_head_and_one_without() -> None:
    model = get_peft_model(
        tiny_llama(), Lora2Config(target_modules=["q_proj"], modules_to_save=["lm_head"])
    ).eval()
    model.add_adapter("plain", Lora2Config(target_modules=["q_proj"]))
    for seed, name in enumerate(("default", "plain")):
        disturb(model, name, seed)
    ids = torch.arange(24).view(4, 6)
    names = ["default", "plain", "__base__", "plain"]
    with torch.no_grad():
        mixed = model(ids, adapter_names=names).logits
        for name in ("default", "plain"):
            model.set_adapter(name)
            alone = model(ids).logits
            chosen = [row for row, wanted in enumerate(names) if wanted == name]
            torch.testing.assert_close(mixed[chosen], alone[chosen])
