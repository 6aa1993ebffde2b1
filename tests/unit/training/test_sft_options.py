"""Options of `lora2 train --objective sft`: defaults, and what a user may get wrong."""

import pytest
from trl import SFTConfig

from command_line import refused
from language_model import (
    CHAT,
    prepared_run,
    save_language_model,
    text_options,
    write_rows,
)
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.objectives.sft import _CONFIG
from lora2.training.options.arguments import RunSettings
from lora2.training.options.text_arguments import TextArguments


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


# What a user may get wrong


@pytest.mark.parametrize(
    ("method", "said"), [("head", "trains nothing of"), ("bitfit", "has none")]
)
def test_methods_with_nothing_to_train_are_refused(method, said, language_model, tmp_path, capsys):
    command = ("train", "--objective=sft", f"--model={language_model}")
    folder = tmp_path / "run"
    assert said in refused(capsys, *command, f"--output_dir={folder}", *text_options(method=method))
    assert not folder.exists()


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
        ({"eval_packing": True}, "eval_packing=True: packed validation rows would read each other"),
        ({"k": 0}, "k=0"),
        ({"tinit": 5, "tfinal": 5}, "tinit=5"),
    ],
    ids=str,
)
def test_options_that_are_invalid(changed, named, language_model, tmp_path, capsys):
    folder = tmp_path / "run"
    command = ("train", "--objective=sft", f"--model={language_model}", f"--output_dir={folder}")
    assert named in refused(capsys, *command, *text_options(**changed))
    assert not folder.exists()


def test_rows_without_an_answer_leave_no_folder(language_model, tmp_path, capsys):
    # They end with a question.
    file = write_rows(tmp_path / "mine.jsonl", *[{"messages": CHAT[:3]}] * 8)
    own = {"train_file": file, "train_rows": None, "validation_rows": None, "target_r": "none"}
    command = ("train", "--objective=sft", f"--model={language_model}")
    folder = tmp_path / "run"
    said = refused(capsys, *command, f"--output_dir={folder}", *text_options(**own))
    assert "exact_match_rows" in said
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


def test_a_missing_package_is_named(language_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "trl", None)
    command = ("train", "--objective=sft", f"--model={language_model}")
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options())
    assert "lora2[sft]" in said
