"""Tags of words, of which one micro-batch has more than another."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, TrainingArguments

from lora2.training.trainer.tag_trainer import TagTrainer
from unit.tiny_transformers import Examples


def tag_trainer(folder: Path, rows_at_a_time: int) -> TagTrainer:
    """A trainer of rows with 1, 1, 6 and 6 tags and so on, four of them a step."""
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
        gradient_accumulation_steps=max(1, 4 // rows_at_a_time), optim="sgd", learning_rate=0.1,
        per_device_eval_batch_size=rows_at_a_time,
        train_sampling_strategy="sequential", save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False, logging_strategy="no",
    )  # fmt: skip
    return TagTrainer(
        model=BertForTokenClassification(config),
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
    )


def weights_after_two_steps(folder: Path, rows_at_a_time: int) -> dict[str, torch.Tensor]:
    trainer = tag_trainer(folder, rows_at_a_time)
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


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 5, 8])
def test_the_loss_of_an_evaluation_is_the_mean_over_all_tags(
    rows_at_a_time: int, tmp_path: Path
) -> None:
    trainer = tag_trainer(tmp_path, rows_at_a_time)
    rows = [trainer.eval_dataset[i] for i in range(8)]
    inputs, labels = (torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels"))
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=inputs).logits.double()
    shares = logits.log_softmax(-1)[labels != -100]
    expected = -shares.gather(1, labels[labels != -100][:, None]).mean()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
