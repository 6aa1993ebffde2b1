"""What a run has lost of the base model's ability, against the definition."""

import types

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from lora2.lab.experiments.running.forgetting import OTHER_TEXTS, ability, lost


def as_prepared(model, tokenizer, objective):
    """The parts of a run that are looked at."""
    return types.SimpleNamespace(
        trainer=types.SimpleNamespace(model=model),
        preprocessor=tokenizer,
        settings=types.SimpleNamespace(objective=objective),
    )


@pytest.fixture
def writer(language_model):
    model = AutoModelForCausalLM.from_pretrained(language_model)
    return model, AutoTokenizer.from_pretrained(language_model)


def test_loss_is_the_mean_over_all_tokens(writer):
    model, tokenizer = writer
    total = count = 0
    with torch.no_grad():
        for text in OTHER_TEXTS:
            ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt").input_ids
            logs = model(ids).logits.double().log_softmax(-1)[0]
            for place in range(1, ids.shape[1]):
                total -= float(logs[place - 1, ids[0, place]])
                count += 1
    assert float(ability(as_prepared(model, tokenizer, "sft"))) == pytest.approx(total / count)


def test_nothing_is_lost_without_training_and_random_numbers_stay(writer):
    prepared = as_prepared(*writer, "sft")
    prepared.trainer.model.train()
    state = torch.get_rng_state()
    before, after = ability(prepared), ability(prepared)
    assert torch.equal(torch.get_rng_state(), state)
    assert prepared.trainer.model.training
    assert lost(prepared, before, after) == {
        "loss_before": float(before), "loss_after": float(before)
    }  # fmt: skip


def test_an_error_leaves_the_model_in_training_mode(writer):
    model, tokenizer = writer
    model.train()
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ability(as_prepared(model, tokenizer, "sft"))
    assert model.training


def test_distance_is_that_of_the_means_of_the_last_states(writer):
    tokenizer = writer[1]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    prepared = as_prepared(model, tokenizer, "classification")
    before = ability(prepared)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "dense"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    prepared.trainer.model = adapted
    distances = []
    with torch.no_grad():
        for text, old in zip(OTHER_TEXTS, before, strict=True):
            ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt").input_ids
            new = adapted.base_model.model.bert(ids).last_hidden_state[0].double().mean(0)
            distances.append(1 - float(new @ old.double() / new.norm() / old.double().norm()))
    expected = sum(distances) / len(distances)
    assert expected > 0.01
    found = lost(prepared, before, ability(prepared))
    assert found == {"distance": pytest.approx(expected, rel=1e-4)}
