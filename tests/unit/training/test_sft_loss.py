"""What `lora2 train --objective sft` learns: the tokens that count, and the penalty."""

from pathlib import Path

import pytest
import torch

from language_model import (
    CHAT,
    MARKED_TEMPLATE,
    byte_tokenizer,
    prepared_run,
    save_language_model,
    train_texts,
    write_rows,
)
from lora2.training.on_disk.records import read_lines
from lora2.training.trainer.sft_trainer import RunSftTrainer
from unit.models import disturb

pytestmark = pytest.mark.slow


def labels_learnt(trainer: RunSftTrainer, row: int = 0) -> str:
    """The bytes of a training row that count in the loss."""
    learnt = [label for label in trainer.train_dataset[row]["labels"] if label != -100]
    return byte_tokenizer().decode(learnt)


def test_completions_alone_are_learnt_by_default(language_model, tmp_path):
    first = prepared_run(language_model, tmp_path / "run")
    answer = first.task.train[0]["completion"][0]["content"]
    assert labels_learnt(first.trainer) == f"{answer}<end>"
    whole = prepared_run(language_model, tmp_path / "run", completion_only_loss=False)
    assert labels_learnt(whole.trainer).startswith("<start>system:Write in standard form.<end>")


@pytest.mark.parametrize("packing", [False, True])
def test_the_assistants_words_alone_are_learnt_if_asked(packing, tmp_path):
    model = save_language_model(tmp_path / "model", MARKED_TEMPLATE)
    file = write_rows(tmp_path / "mine.jsonl", *[{"messages": CHAT}] * 4)
    own = {"train_file": file, "train_rows": None, "validation_rows": None}
    own |= {"tinit": 0, "tfinal": 0, "exact_match_rows": 0, "packing": packing}
    prepared = prepared_run(model, tmp_path / "run", assistant_only_loss=True, **own)
    assert labels_learnt(prepared.trainer).startswith("B.<end>D.<end>")
    assert prepared.main_metric == "mean_token_accuracy"
    prepared.trainer.train()


def test_packed_rows_are_fewer_and_the_steps_with_them(language_model, tmp_path):
    folder = tmp_path / "run"
    options = {"packing": True, "max_length": 200, "tinit": 0, "tfinal": 0}
    prepared = prepared_run(language_model, folder, **options)
    assert prepared.steps < 8
    prepared.trainer.train()
    assert prepared.trainer.state.max_steps == prepared.steps


class _FoundError(Exception):
    """Ends a training whose first gradient is all that is asked."""


def first_gradient(model: Path, folder: Path, **options: object) -> torch.Tensor:
    """The gradient of a first step, as one vector."""
    usual = {"target_r": "none", "max_steps": 1} | options
    if usual["target_r"] != "none":
        usual |= {"tinit": 0, "tfinal": 0}
    prepared = prepared_run(
        model, folder, exact_match_rows=0, save_strategy="no",
        eval_strategy="no", max_grad_norm=0, **usual,
    )  # fmt: skip
    found: list[torch.Tensor] = []
    prepared.trainer.create_optimizer()

    def keep(*arguments: object, **named: object) -> object:
        parameters = [p for p in prepared.trainer.model.parameters() if p.requires_grad]
        found.append(torch.cat([p.grad.flatten() for p in parameters]).clone())
        raise _FoundError

    prepared.trainer.optimizer.step = keep
    with pytest.raises(_FoundError):
        prepared.trainer.train()
    return found[0]


@pytest.mark.parametrize("method", ["lora2", "adalora"])
def test_penalty_enters_the_gradient_in_full(method, language_model, tmp_path):
    options = {"lora2": {"orthogonality": "penalty"}, "adalora": {"target_r": 2, "max_steps": 3}}
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    with_weight = [
        first_gradient(
            language_model, tmp_path / "run", method=method, orth_reg_weight=weight,
            **options[method], **batch,
        )
        for weight in (0.0, 1.0, 2.0)
    ]  # fmt: skip
    once, twice = with_weight[1] - with_weight[0], with_weight[2] - with_weight[0]
    assert once.norm() > 1e-2
    torch.testing.assert_close(twice, 2 * once, atol=1e-5, rtol=1e-4)
    whole = first_gradient(
        language_model, tmp_path / "run", method=method, orth_reg_weight=1.0,
        per_device_train_batch_size=32, **options[method],
    )  # fmt: skip
    torch.testing.assert_close(with_weight[1], whole, atol=1e-5, rtol=1e-4)


def test_logged_penalty_is_what_was_added(language_model, tmp_path):
    folder = tmp_path / "run"
    more = ["--orthogonality=penalty", "--gradient_accumulation_steps=2", "--tfinal=1"]
    assert train_texts(language_model, folder, *more, exact_match_rows=0, tfinal=None) == 0
    for log in read_lines(folder / "log.jsonl"):
        assert log["penalty"] > 0
        assert log["loss"] == pytest.approx(log["task_loss"] + log["penalty"])
        # The loss of tokens, without what was added.
        assert log["task_loss"] == pytest.approx(5.56, abs=0.1)


@pytest.mark.parametrize(
    ("method", "packing"), [("lora2", False), ("lora2", True), ("prompt", False)]
)
def test_metrics_are_means_over_tokens_whatever_the_batch(
    method, packing, language_model, tmp_path
):
    options = {"packing": packing, "tinit": 0, "tfinal": 0, "validation_rows": 5}
    if method == "prompt":
        # Bare text, of which the virtual tokens predict the first token.
        texts = [{"text": "A? B." * length} for length in (1, 2, 3, 1, 5)]
        file = write_rows(tmp_path / "mine.jsonl", *texts)
        options = {"method": "prompt", "virtual_tokens": 3, "train_file": file}
        options |= {"validation_file": file, "train_rows": None, "validation_rows": None}
    found = []
    for size in (5, 3, 1):
        run = prepared_run(
            language_model, tmp_path / f"run{size}", exact_match_rows=0,
            per_device_eval_batch_size=size, **options,
        )  # fmt: skip
        if method == "lora2":
            disturb(run.trainer.model)
        else:
            torch.nn.init.normal_(next(iter(run.trainer.model.prompt_encoder.parameters())))
        metrics = run.trainer.evaluate()
        names = ("eval_loss", "eval_mean_token_accuracy", "eval_entropy")
        found.append([metrics[name] for name in names])
        if size == 1:
            rows = list(run.trainer.eval_dataset)
    assert found[1:] == [pytest.approx(found[0], rel=1e-5)] * 2
    if method == "lora2" and not packing:
        assert found[0][:2] == pytest.approx(loss_and_accuracy(run.trainer.model, rows), rel=1e-4)


def loss_and_accuracy(model, rows):
    """The mean loss of all learnt tokens of these rows, and the share that is found."""
    losses, are_found = [], []
    for row in rows:
        tokens, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        with torch.no_grad():
            shares = model(input_ids=tokens[None]).logits[0].double().log_softmax(-1)
        for place in range(1, len(tokens)):
            if labels[place] != -100:
                losses.append(-shares[place - 1, labels[place]])
                are_found.append(shares[place - 1].argmax() == labels[place])
    return [float(torch.tensor(each, dtype=torch.float64).mean()) for each in (losses, are_found)]
