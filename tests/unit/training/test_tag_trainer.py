"""Tags of words, of which one micro-batch has more than another."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, TrainingArguments

from lora2.training.trainer.tag_trainer import TagTrainer
from unit.tiny_transformers import Examples


def weights_after_two_steps(folder: Path, rows_at_a_time: int) -> dict[str, torch.Tensor]:
    """Train on rows with 1, 1, 6 and 6 tags, four of them a step."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    labels = torch.randint(0, 3, (8, 6))
    labels[::4, 1:] = labels[1::4, 1:] = -100
    rows = Examples({"input_ids": torch.randint(0, 30, (8, 6)), "labels": labels})
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=rows_at_a_time,
        gradient_accumulation_steps=4 // rows_at_a_time, optim="sgd", learning_rate=0.1,
        train_sampling_strategy="sequential", save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False, logging_strategy="no",
    )  # fmt: skip
    trainer = TagTrainer(
        model=BertForTokenClassification(config), args=arguments, train_dataset=rows
    )
    trainer.train()
    return trainer.model.state_dict()


@pytest.mark.parametrize("rows_at_a_time", [1, 2])
def test_micro_batches_with_few_and_many_tags_train_as_their_joint_batch(
    rows_at_a_time: int, tmp_path: Path
) -> None:
    expected = weights_after_two_steps(tmp_path, 4)
    found = weights_after_two_steps(tmp_path, rows_at_a_time)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)
