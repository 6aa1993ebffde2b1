"""`lora2 train --objective sft` on a tiny language model, and what other commands make of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from command_line import lora2, refused
from language_model import (
    MARKED_TEMPLATE,
    byte_tokenizer,
    save_language_model,
    text_options,
    train_texts,
)
from lora2.commands.parser import TrainParser
from lora2.commands.train import resolve
from lora2.training.arguments import RunSettings
from lora2.training.methods.registry import METHODS
from lora2.training.objectives.sft import _CONFIG
from lora2.training.prepare import prepare
from lora2.training.records import read_lines
from lora2.training.saved_run import load_saved_run
from lora2.training.sft_trainer import RunSftTrainer
from lora2.training.text_arguments import TextArguments

STEPS = 8
# These train nothing of a language model without biases, or nothing at all without a head.
REFUSED = {"head": "trains nothing of", "bitfit": "has none"}
MERGED = ("lora2", "lora", "adalora", "sora")


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def run_of(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a method's finished run; do not write into it."""
    made: dict[str, Path] = {}

    def of(method: str) -> Path:
        if method not in made:
            made[method] = tmp_path_factory.mktemp("methods") / method
            more = [f"--method={method}", "--virtual_tokens=3", "--bottleneck_size=3"]
            assert train_texts(language_model, made[method], *more, save_strategy="no") == 0
        return made[method]

    return of


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "adapter").glob("*.safetensors")
    return load_file(file)


def prepared_run(model: Path, folder: Path, **changed: object):
    options = [f"--model={model}", f"--output_dir={folder}", "--objective=sft"]
    return prepare(resolve(TrainParser(), [*options, *text_options(**changed)]))


def labels_learnt(trainer: RunSftTrainer, row: int = 0) -> str:
    """The bytes of a training row that count in the loss."""
    learnt = [label for label in trainer.train_dataset[row]["labels"] if label != -100]
    return byte_tokenizer().decode(learnt)


# What a run leaves behind


def test_run_folder_is_that_of_every_run(run_of):
    run = run_of("lora2")
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "adapter", "config.yaml", "environment.json", "log.jsonl", "metrics.jsonl", "summary.json",
        "task.json",
    }  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["objective"], config["task"]) == ("sft", "rewrite")
    assert TrainParser().given_by_file(run / "config.yaml") == config
    assert (run / "adapter" / "tokenizer.json").is_file()
    assert "trl" in json.loads((run / "environment.json").read_text())["versions"]


def test_answers_are_scored_before_and_after(run_of):
    first, *_, last = read_lines(run_of("lora2") / "metrics.jsonl")
    assert first == {"step": 0, "epoch": 0, "exact_match": 0.0}
    assert last["step"] == STEPS
    assert {"exact_match", "validation_loss", "mean_token_accuracy", "train_loss"} <= set(last)
    summary = summary_of(run_of("lora2"))
    assert summary["before"] == first
    assert summary["last"] == last
    assert summary["best"]["step"] > 0
    assert summary["main_metric"] == "exact_match"


def test_each_evaluation_is_one_line_of_output(language_model, tmp_path, capsys):
    assert train_texts(language_model, tmp_path / "run") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lora2, ")]
    shown = [(line.split(": ")[0], line.split(": ")[1].split()[0]) for line in lines]
    assert shown == [
        ("lora2, epoch 0, step 0", "exact_match"),
        ("lora2, epoch 1, step 4", "validation_loss"),
        ("lora2, epoch 2, step 8", "validation_loss"),
        ("lora2, epoch 2, step 8", "exact_match"),
    ]


def test_budget_falls_as_in_every_run(run_of):
    logs = read_lines(run_of("lora2") / "log.jsonl")
    # 28 + 28 (1 − (t − 1)/4)³ after step 1, until three steps before the end: 14 matrices.
    assert [log["budget"] for log in logs] == [56, 39, 31, 28, 28, 28, 28, 28]
    assert sum(summary_of(run_of("lora2"))["kept_singular_values"].values()) == 28
    assert all(log["loss"] == log["task_loss"] for log in logs)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in REFUSED])
def test_every_method_trains_a_language_model(method, run_of):
    summary = summary_of(run_of(method))
    assert summary["method"] == method
    assert summary["steps"] == STEPS
    assert summary["trainable_parameters"]["head"] == 0
    assert summary["trainable_parameters"]["adapter"] > 0
    assert lora2("evaluate", run_of(method)) == 0
    assert lora2("generate", run_of(method), "--prompt=two kilos") == 0


@pytest.mark.parametrize(("method", "said"), REFUSED.items())
def test_methods_with_nothing_to_train_are_refused(method, said, language_model, tmp_path, capsys):
    command = ("train", "--objective=sft", f"--model={language_model}", f"--method={method}")
    folder = tmp_path / "run"
    assert said in refused(capsys, *command, f"--output_dir={folder}", *text_options())
    assert not folder.exists()


# Options


def test_texts_have_the_defaults_of_trl():
    ours, theirs = TextArguments(), SFTConfig(use_cpu=True, bf16=False)
    assert {name: getattr(ours, name) for name in _CONFIG} == {
        name: getattr(theirs, name) for name in _CONFIG
    }


def test_objective_is_that_of_the_task_unless_given():
    def resolved(*arguments: str) -> RunSettings:
        return resolve(TrainParser(), list(arguments))

    assert resolved().run.objective == "classification"
    settings = resolved("--task=rewrite")
    assert settings.run.objective == "sft"
    assert settings.model.model == "smollm2"
    settings = resolved("--objective=sft")
    assert settings.data.task == "rewrite"
    assert settings.text.exact_match_rows == 100
    settings = resolved("--objective=sft", "--train_file=mine.jsonl")
    assert settings.data.task is None
    assert settings.text.exact_match_rows == 0


@pytest.mark.parametrize("targets", ["all-linear", "q_proj"])
def test_target_modules_are_chosen_as_ever(targets, language_model, tmp_path):
    prepared = prepared_run(language_model, tmp_path / "run", target_modules=targets)
    adapted = {name.split(".lora2_")[0] for name, _ in prepared.trainer.model.named_parameters()
               if ".lora2_" in name}  # fmt: skip
    assert len(adapted) == (14 if targets == "all-linear" else 2)
    assert not [name for name in adapted if "lm_head" in name]


def test_completions_alone_are_learnt_unless_told_otherwise(language_model, tmp_path):
    first = prepared_run(language_model, tmp_path / "run")
    answer = first.task.train[0]["completion"][0]["content"]
    assert labels_learnt(first.trainer) == f"{answer}<end>"
    whole = prepared_run(language_model, tmp_path / "run", completion_only_loss=False)
    assert labels_learnt(whole.trainer).startswith("<start>system:Write in standard form.<end>")


CHAT = [
    {"role": "user", "content": "A?"},
    {"role": "assistant", "content": "B."},
    {"role": "user", "content": "C?"},
    {"role": "assistant", "content": "D."},
]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("packing", [False, True])
def test_the_assistants_words_alone_are_learnt_if_asked(packing, tmp_path):
    model = save_language_model(tmp_path / "model", MARKED_TEMPLATE)
    file = write(tmp_path / "mine.jsonl", *[{"messages": CHAT}] * 4)
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
    assert prepared.steps < STEPS
    prepared.trainer.train()
    assert prepared.trainer.state.max_steps == prepared.steps


OWN = {
    "chat": {"messages": CHAT},
    "prompt and completion": {"prompt": "A?", "completion": "B."},
    "text": {"text": "A? B."},
}


@pytest.mark.parametrize("case", OWN)
def test_own_rows_train_evaluate_and_generate(case, language_model, tmp_path, capsys):
    file, folder = write(tmp_path / "mine.jsonl", *[OWN[case]] * 20), tmp_path / "run"
    own = {"train_rows": None, "validation_rows": None, "tinit": 0, "tfinal": 0}
    asked = 0 if case == "text" else 2
    assert train_texts(
        language_model, folder, f"--train_file={file}", **own, exact_match_rows=asked
    ) == 0  # fmt: skip
    assert summary_of(folder)["task"] == "mine"
    assert lora2("generate", folder, "--prompt=A?") == 0
    if asked:
        assert lora2("evaluate", folder, "--file", file) == 0
        assert "20 rows" in capsys.readouterr().out
    else:
        assert "exact_match_rows" in refused(capsys, "evaluate", folder)
        messages = write(tmp_path / "prompts.jsonl", {"prompt": CHAT[:1]})
        assert "learnt from bare text" in refused(capsys, "generate", folder, "--file", messages)


# The loss


def first_gradient(model: Path, folder: Path, **options: object) -> torch.Tensor:
    """The gradient of a first step, as one vector."""
    usual = {"target_r": "none", "max_steps": 1} | options
    prepared = prepared_run(
        model, folder, tinit=0, tfinal=0, exact_match_rows=0, save_strategy="no",
        eval_strategy="no", max_grad_norm=0, **usual,
    )  # fmt: skip
    found: list[torch.Tensor] = []
    step = prepared.trainer.create_optimizer().step

    def keep(*arguments: object, **named: object) -> object:
        parameters = [p for p in prepared.trainer.model.parameters() if p.requires_grad]
        found.append(torch.cat([p.grad.flatten() for p in parameters]).clone())
        return step(*arguments, **named)

    prepared.trainer.optimizer.step = keep
    prepared.trainer.train()
    return found[0]


@pytest.mark.parametrize(("method", "accumulated"), [("lora2", 1), ("lora2", 4), ("adalora", 4)])
def test_penalty_enters_the_gradient_in_full(method, accumulated, language_model, tmp_path):
    options = {"lora2": {"orthogonality": "penalty"}, "adalora": {"target_r": 2, "max_steps": 3}}
    batch = {
        "per_device_train_batch_size": 32 // accumulated,
        "gradient_accumulation_steps": accumulated,
    }
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


# Interrupted and resumed


def test_resumed_run_ends_as_the_uninterrupted_one(
    run_of, language_model, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    original = RunSftTrainer.training_step

    def training_step(self, *arguments, **named):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(RunSftTrainer, "training_step", training_step)
        saving = {"save_strategy": "steps", "save_steps": 1}
        assert train_texts(language_model, folder, **saving) == 130
    assert f"lora2 train --output_dir {folder} --resume" in capsys.readouterr().err
    assert lora2("train", "--output_dir", folder, "--resume") == 0
    assert summary_of(folder)["resumed_from_step"] == 5
    ours, theirs = weights(folder), weights(run_of("lora2"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    scored = [
        [(r["step"], r.get("exact_match")) for r in read_lines(run / "metrics.jsonl")]
        for run in (folder, run_of("lora2"))
    ]
    assert scored[0] == scored[1]


# Used


@pytest.mark.parametrize("method", MERGED)
def test_merged_model_stands_alone(method, run_of, tmp_path):
    output = tmp_path / "merged"
    assert lora2("export", run_of(method), "--to=merged", "--output", output) == 0
    merged = AutoModelForCausalLM.from_pretrained(output).eval()
    tokens = torch.arange(20, 60).view(2, 20)
    with torch.no_grad():
        expected = load_saved_run(run_of(method)).model(tokens).logits
        torch.testing.assert_close(merged(tokens).logits, expected, atol=1e-5, rtol=1e-5)


def test_predict_refuses_a_run_that_writes(run_of, capsys):
    assert "lora2 generate" in refused(capsys, "predict", run_of("lora2"), "--text=a")


def test_inspect_draws_a_run_that_writes(run_of, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_of("lora2"), run)
    assert lora2("inspect", run) == 0
    assert len(list((run / "figures").iterdir())) == 3


# What a user may get wrong


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"label_column": "stars"}, "label_column=stars"),
        ({"kind": "regression"}, "kind=regression"),
        ({"baseline": "head"}, "baseline=head"),
        ({"train_sentences": 10}, "train_sentences=10"),
        ({"classifier_dropout": 0.1}, "classifier_dropout=0.1"),
        ({"exact_match_rows": -1}, "exact_match_rows=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_length": 500}, "max_length: got 500"),
        ({"max_length": 10}, "max_length=10 cuts off all"),
        ({"task": "cola", "train_rows": None, "validation_rows": None}, "task: got 'cola'"),
        ({"target_modules": "nothing"}, "nothing"),
        ({"assistant_only_loss": True}, "assistant_only_loss=True: The chat template"),
        ({"loss_type": "mse"}, "loss_type"),
        ({"k": 0}, "k=0"),
        ({"tinit": 5, "tfinal": 5}, "tinit=5"),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant(changed, named, language_model, tmp_path, capsys):
    folder = tmp_path / "run"
    command = ("train", "--objective=sft", f"--model={language_model}", f"--output_dir={folder}")
    assert named in refused(capsys, *command, *text_options(**changed))
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_the_output_layer_cannot_be_adapted(language_model, tmp_path, capsys):
    command = ("train", "--objective=sft", f"--model={language_model}", "--target_modules=lm_head")
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options())
    assert "`lm_head` is not supported" in said


@pytest.mark.parametrize("option", ["packing=True", "train_rows=5", "exact_match_rows=3"])
def test_options_of_texts_do_not_go_with_labels(option, tmp_path, capsys):
    said = refused(capsys, "train", f"--{option}", f"--output_dir={tmp_path / 'run'}")
    assert option in said
    assert "--objective sft" in said


def test_messages_need_a_template(tmp_path, capsys):
    model = save_language_model(tmp_path / "model", template=None)
    command = ("train", "--objective=sft", f"--model={model}", f"--output_dir={tmp_path / 'run'}")
    assert "chat template" in refused(capsys, *command, *text_options())


def test_a_model_that_does_not_write_is_refused(tiny_model, tmp_path, capsys):
    command = ("train", "--objective=sft", f"--model={tiny_model}")
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options())
    assert said.startswith("lora2: model: ")


def test_adapter_of_another_language_model(run_of, tmp_path, capsys):
    other = save_language_model(tmp_path / "other", layers=3)
    said = refused(capsys, "generate", run_of("lora2"), f"--model={other}", "--prompt=a")
    assert "another base model" in said


def test_a_missing_package_is_named(language_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    command = ("train", "--objective=sft", f"--model={language_model}")
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options())
    assert "lora2[sft]" in said
