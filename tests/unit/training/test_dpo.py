"""`lora2 train --objective dpo`: its loss, its reference, and what a user may get wrong."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl import DPOConfig

from command_line import refused
from language_model import TEMPLATE, prepared_run, save_language_model, text_options, write_rows
from lora2 import Lora2Callback, UserError
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.reports.tables import plan_table
from lora2.training.options.text_arguments import TextArguments
from lora2.training.prepare import PreparedRun
from unit.models import adapter_state, disturb

FEW = {"train_rows": 4, "validation_rows": 4, "target_r": "none"}


def prepared(model: Path, folder: Path, **options: Any) -> PreparedRun:
    return prepared_run(model, folder, "dpo", **FEW | options)


@torch.no_grad()
def log_probability(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """The oracle: of an answer after a prompt, Σ log p(token), without padding or TRL."""
    tokens = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=tokens).logits.double().log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logits.gather(1, torch.tensor(answer)[:, None]).sum()


def test_loss_and_rewards_are_those_of_the_formula(language_model: Path, tmp_path: Path) -> None:
    run = prepared(language_model, tmp_path / "run", beta=0.3)
    model: Any = run.trainer.model
    disturb(model)
    rows = run.trainer.eval_dataset
    margins = []
    for row in rows:
        with model.disable_adapter():
            before = [log_probability(model, row["prompt_ids"], row[f"{n}_ids"])
                      for n in ("chosen", "rejected")]  # fmt: skip
        now = [log_probability(model, row["prompt_ids"], row[f"{name}_ids"])
               for name in ("chosen", "rejected")]  # fmt: skip
        margins.append(0.3 * ((now[0] - before[0]) - (now[1] - before[1])))
    margin = torch.stack(margins)
    found = run.trainer.evaluate()
    assert found["eval_rewards/margins"] == pytest.approx(margin.mean().item(), rel=1e-3)
    assert found["eval_rewards/accuracies"] == (margin > 0).double().mean().item()
    expected = -torch.nn.functional.logsigmoid(margin).mean().item()
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_metrics_are_means_over_rows_whatever_the_batch(
    language_model: Path, tmp_path: Path
) -> None:
    found = []
    for size in (4, 3, 1):
        sizes = {"validation_rows": 5, "per_device_eval_batch_size": size}
        run = prepared(language_model, tmp_path / f"run{size}", **sizes)
        disturb(run.trainer.model)
        metrics = run.trainer.evaluate()
        names = ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies",
                 "eval_rewards/chosen", "eval_logps/rejected")  # fmt: skip
        found.append([metrics[name] for name in names])
    assert found[1:] == [pytest.approx(found[0], rel=1e-4)] * 2
    assert len(run.trainer.eval_dataset) == 5


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_smaller_last_micro_batch_counts_by_its_pairs(
    size: int, language_model: Path, tmp_path: Path
) -> None:
    def step(size: int) -> dict[str, Tensor]:
        run = prepared(
            language_model, tmp_path / f"run{size}", train_rows=5, max_steps=1, optim="sgd",
            learning_rate=0.5, warmup_steps=0, target_r="none", eval_strategy="no",
                save_strategy="no",
            per_device_train_batch_size=size, gradient_accumulation_steps=-(-5 // size),
            train_sampling_strategy="sequential",
        )  # fmt: skip
        disturb(run.trainer.model)
        before = {name: each.clone() for name, each in adapter_state(run.trainer.model).items()}
        run.trainer.train()
        return {
            name: weight - before[name] for name, weight in adapter_state(run.trainer.model).items()
        }

    expected, found = step(5), step(size)
    for name, change in expected.items():
        largest = float(change.abs().max())
        assert largest > 0
        torch.testing.assert_close(found[name], change, atol=1e-2 * largest, rtol=0)


def test_loggers_come_after_what_adds_to_the_logs(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Logger(TrainerCallback):
        """As that of TensorBoard."""

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Logger)
    run = prepared(language_model, tmp_path / "run", report_to="tensorboard")
    kinds = [type(callback) for callback in run.trainer.callback_handler.callbacks]
    assert kinds.index(Lora2Callback) < kinds.index(Logger)


def test_rows_that_are_cut_off_are_counted(language_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a" * (60 if number % 2 else 5), "chosen": "bcd", "rejected": "e"}
        for number in range(20)
    ]
    file = write_rows(tmp_path / "mine.jsonl", *rows)
    own = {"train_file": file, "validation_file": file, "max_length": 48}
    nothing = {"train_rows": None, "validation_rows": None}
    run = prepared(language_model, tmp_path / "run", **own, **nothing)
    assert run.left_out == {"train": 10, "validation": 10}
    cells = [cell for column in plan_table(run).columns for cell in column.cells]
    expected = "10 training rows and 10 rows of validation: max_length=48 cuts off all that is "
    assert f"{expected}learnt" in cells


OWN: dict[str, Any] = {"train_rows": None, "validation_rows": None, "max_length": 48}


def test_rows_whose_answers_are_the_same_when_cut_off_are_left_out(
    language_model: Path, tmp_path: Path
) -> None:
    alike = {"prompt": "a?", "chosen": "b" * 60 + "c", "rejected": "b" * 60 + "d"}
    rows = [alike, {"prompt": "a?", "chosen": "b" * 60, "rejected": "b" * 40}] * 5
    file = write_rows(tmp_path / "mine.jsonl", *rows)
    run = prepared(language_model, tmp_path / "run", train_file=file, validation_file=file, **OWN)
    assert run.left_out == {"train": 5, "validation": 5}
    assert all(len(row["rejected"]) < 50 for row in run.trainer.train_dataset)
    file = write_rows(tmp_path / "alike.jsonl", *[alike] * 5)
    with pytest.raises(UserError) as refusal:
        prepared(language_model, tmp_path / "other", train_file=file, **OWN)
    assert "max_length=48 cuts off all that is to be learnt, in every train row" in str(
        refusal.value
    )


def test_answers_that_a_tokenizer_does_not_tell_apart_are_refused(
    tmp_path: Path,
) -> None:
    trimming = TEMPLATE.replace("message['content']", "message['content'] | trim")
    model = save_language_model(tmp_path / "model", trimming)
    row = {"prompt": [{"role": "user", "content": "a"}],
           "chosen": [{"role": "assistant", "content": "b"}],
           "rejected": [{"role": "assistant", "content": "b "}]}  # fmt: skip
    file = write_rows(tmp_path / "mine.jsonl", *[row] * 5)
    with pytest.raises(UserError, match=r"^text_columns: .* makes the same tokens .* 'b'"):
        prepared(model, tmp_path / "run", train_file=file, **OWN)


def test_penalty_is_in_the_training_loss_alone(language_model: Path, tmp_path: Path) -> None:
    run = prepared(language_model, tmp_path / "run", orthogonality="penalty")
    trainer, model = run.trainer, run.trainer.model
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    plain = torch.log(torch.tensor(2.0))
    torch.testing.assert_close(trainer.compute_loss(model.eval(), batch), plain)
    penalty = model.train().base_model.weighted_penalty()
    assert penalty > 0.1
    torch.testing.assert_close(trainer.compute_loss(model, batch), plain + penalty)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.item())


def test_penalty_of_adalora_is_in_the_training_loss_alone(
    language_model: Path, tmp_path: Path
) -> None:
    adalora = {"method": "adalora", "target_r": 2, "train_rows": 32}
    trainer = prepared(language_model, tmp_path / "run", **adalora).trainer
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    plain = torch.log(torch.tensor(2.0))
    assert trainer.compute_loss(trainer.model.train(), batch) > plain + 0.01
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.item())


def test_reference_is_the_base_model_and_costs_no_memory(
    language_model: Path, tmp_path: Path
) -> None:
    trainer = prepared(language_model, tmp_path / "run").trainer
    base = dict(trainer.model.get_base_model().named_parameters())
    for name, parameter in trainer.ref_model.named_parameters():
        module, _, last = name.rpartition(".")
        own = base.get(name, base.get(f"{module}.base_layer.{last}"))
        assert parameter.data_ptr() == own.data_ptr()
        assert not parameter.requires_grad
    assert list(trainer.model.peft_config) == ["default"]


def test_reference_of_a_whole_model_stays_when_that_is_trained(
    language_model: Path, tmp_path: Path
) -> None:
    trainer = prepared(language_model, tmp_path / "run", method="full").trainer
    tokens = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = trainer.ref_model(tokens).logits
        for parameter in trainer.model.parameters():
            parameter.add_(1)
        assert torch.equal(trainer.ref_model(tokens).logits, expected)


def test_defaults_are_those_of_trl() -> None:
    theirs = DPOConfig(use_cpu=True, bf16=False)
    settings = resolve(TrainParser(), ["--objective=dpo"])
    assert [settings.text.loss_type] == theirs.loss_type
    assert settings.text.beta == TextArguments().beta == theirs.beta
    assert (settings.task, settings.model.model) == ("preferences", "smollm2")
    assert resolve(TrainParser(), ["--task=preferences"]).objective == "dpo"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": 0}, "beta=0"),
        ({"beta": -1}, "beta=-1"),
        ({"beta": "nan"}, "beta"),
        ({"loss_type": "nll"}, "loss_type=nll: of --objective dpo write one of sigmoid, hinge"),
        ({"loss_type": "mse"}, "loss_type"),
        ({"objective": "sft", "beta": 0.2}, "beta=0.2 has no effect without --objective dpo"),
        ({"objective": "sft", "loss_type": "ipo"}, "loss_type=ipo: of --objective sft write one"),
        ({"packing": True}, "packing=True has no effect without --objective sft"),
        ({"exact_match_rows": 3}, "exact_match_rows=3 has no effect without --objective sft"),
        ({"completion_only_loss": True}, "completion_only_loss=True has no effect"),
        ({"new_tokens": "<a>"}, "new_tokens=<a> has no effect without --objective sft"),
        ({"lora_dropout": 0.1}, "lora_dropout=0.1 has no effect with --objective dpo"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 has no effect"),
        ({"label_column": "stars"}, "label_column=stars"),
        ({"baseline": "head"}, "baseline=head"),
        ({"task": "rewrite"}, "task: got 'rewrite', which is no task of preferences"),
        ({"max_length": 500}, "max_length: got 500, but the model reads 256"),
        ({"max_length": 10}, "max_length=10 cuts off all"),
        ({"train_rows": 9000}, "train_rows: got 9000"),
        ({"method": "head"}, "trains nothing of"),
        ({"train_sampling_strategy": "batch_rebalance"}, "has two texts and no length of its own"),
        ({"fsdp": "full_shard"}, "fsdp=full_shard: --objective dpo has a reference"),
        ({"init_weights": "gradient"}, "init_weights=gradient: --objective dpo compares a model"),
        ({"k": 0}, "k=0"),
        ({"tinit": 5, "tfinal": 5}, "tinit=5"),
    ],
    ids=str,
)
def test_options_that_are_invalid(
    changed: dict[str, Any], said: str, language_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, objective = tmp_path / "run", {"objective": "dpo"} | changed
    start = ("train", f"--objective={objective['objective']}", f"--model={language_model}")
    options = text_options(**objective)
    assert said in refused(capsys, *start, f"--output_dir={folder}", *options)
    assert not folder.exists()


def test_a_launcher_that_splits_tensors_is_refused_as_the_option_is(
    language_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    start = ("train", "--objective=dpo", f"--model={language_model}")
    said = refused(
        capsys, *start, f"--output_dir={tmp_path / 'run'}", *text_options(objective="dpo")
    )
    assert "ACCELERATE_USE_FSDP=true: --objective dpo has a reference" in said


def test_messages_need_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_language_model(tmp_path / "model", template=None)
    command = ("train", "--objective=dpo", f"--model={model}", f"--output_dir={tmp_path / 'run'}")
    assert "chat template" in refused(capsys, *command, *text_options(objective="dpo"))


def test_rows_that_are_no_preferences_leave_no_folder(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "mine.jsonl", *[{"prompt": "a", "completion": "b"}] * 8)
    own = {"train_file": file, "train_rows": None, "validation_rows": None, "target_r": "none"}
    command = ("train", "--objective=dpo", f"--model={language_model}")
    said = refused(
        capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options(objective="dpo", **own)
    )
    assert "name prompt, chosen and rejected" in said
    assert not (tmp_path / "run").exists()
