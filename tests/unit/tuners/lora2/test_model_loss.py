"""The share of the optimizer's batch that a loss counts is the one that the penalty gets."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from lora2.tuners.lora2.model_loss import share_of_optimizer_batch
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama, tiny_llama_classifier

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [5, 7, 9, 11]])
LABELS = torch.tensor([[5, 6, -100, 8], [-100, 10, -100, 12], [5, 7, 9, -100]])
ONE, OTHER = slice(0, 1), slice(1, 3)
OF_TEXTS = {"input_ids": TOKENS, "labels": LABELS}
SHIFTED = {"input_ids": TOKENS, "labels": LABELS, "shift_labels": LABELS.flip(0)}
OF_ROWS = {"input_ids": TOKENS, "labels": torch.tensor([0, 1, 1])}


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=1, n_positions=8))


def bart() -> nn.Module:
    config = BartConfig(
        vocab_size=32, d_model=8, decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=8
    )
    return BartForCausalLM(config)


def t5() -> nn.Module:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=32,
            d_model=8,
            d_ff=8,
            d_kv=4,
            num_layers=1,
            num_heads=1,
            decoder_start_token_id=0,
        )
    )


def modernbert() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=32, num_attention_heads=1, cls_token_id=0, sep_token_id=0, **sizes, **tokens
        )
    )


def vit(**fields: object) -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 4}
    return ViTForImageClassification(
        ViTConfig(num_attention_heads=1, patch_size=2, **sizes, **fields)
    )


def images(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(3, 3, 4, 4), "labels": labels}


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, torch.Tensor]]] = {
    "llama": (tiny_llama, OF_TEXTS),
    "llama_shifted": (tiny_llama, SHIFTED),
    "llama_classifier": (tiny_llama_classifier, OF_ROWS),
    # The names of its class and of the next ones are of no loss that transformers knows.
    "gpt2": (gpt2, OF_TEXTS),
    "masked": (modernbert, OF_TEXTS),
    # They compute a mean, whatever they are handed.
    "bart_decoder": (bart, OF_TEXTS),
    "t5": (t5, OF_TEXTS),
    "bert_classifier": (tiny_bert, {**bert_batch(3), "labels": torch.tensor([0, 1, 1])}),
    "images": (vit, images(torch.tensor([0, 1, 1]))),
    "images_regression": (lambda: vit(num_labels=1), images(torch.tensor([0.5, 1.0, 2.0]))),
    "images_several": (
        lambda: vit(problem_type="multi_label_classification"),
        images(torch.eye(3)[:, :2]),
    ),
}


# transformers 5.9 counts otherwise for the first, and does not take the config of the second.
OF_LATER = ("llama", "masked")


@pytest.mark.parametrize("name", CASES)
def test_the_penalty_enters_an_optimizer_step_once(name: str, tmp_path: Path) -> None:
    """By the Trainer's own number; where the loss does not use it, each micro-batch has a mean."""
    if name in OF_LATER and "_loss_shifts_labels" not in inspect.getsource(Trainer.__init__):
        pytest.skip(
            "this transformers counts the first labels of a row, too, or builds no such model"
        )
    torch.manual_seed(0)
    make, batch = CASES[name]
    model = make().eval()
    micro_batches = [{key: value[rows] for key, value in batch.items()} for rows in (ONE, OTHER)]
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments)
    whole = {"num_items_in_batch": trainer._get_num_items_in_batch(micro_batches, "cpu")}
    with torch.no_grad():
        means = [model(**each).loss for each in micro_batches]
        losses = [model(**each, **whole).loss for each in micro_batches]
    shares = [share_of_optimizer_batch(model, {**each, **whole}) for each in micro_batches]
    if torch.allclose(torch.stack(means), torch.stack(losses)):
        assert shares == [1.0, 1.0]
    else:
        torch.testing.assert_close(sum(shares), torch.tensor(1.0))


def test_a_loss_without_the_number_is_a_mean() -> None:
    assert share_of_optimizer_batch(gpt2(), OF_TEXTS) == 1.0


def test_the_share_is_compiled_with_the_model() -> None:
    model, whole = tiny_llama().eval(), {"num_items_in_batch": torch.tensor(40)}
    compiled = torch.compile(share_of_optimizer_batch, backend="eager", fullgraph=True)
    expected = share_of_optimizer_batch(model, {**OF_TEXTS, **whole})
    torch.testing.assert_close(compiled(model, {**OF_TEXTS, **whole}), expected)
