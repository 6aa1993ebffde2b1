"""`lora2 train --objective sft --new_tokens`, and what the other commands make of such a run."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_line import lora2, refused, saved_weights
from language_model import save_language_model, text_options, train_texts, write_rows
from lora2.training.base_models.new_tokens import with_new_tokens
from lora2.training.run_loading import load_saved_run
from lora2.training.trainer.sft_trainer import RunSftTrainer

NEW = ("--new_tokens", "<tool>", "</tool>")
OWN = {"train_rows": None, "validation_rows": None, "learning_rate": 0.01}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of prompts, and answers in which the tokens are."""
    calls = [{"prompt": f"call {i}:", "completion": f"<tool>{i}</tool>"} for i in range(20)]
    return write_rows(tmp_path / "calls.jsonl", *calls)


@torch.no_grad()
def logits(model: object, tokenizer: object) -> torch.Tensor:
    ids = tokenizer("call 3: <tool>3</tool>", return_tensors="pt").input_ids
    assert {260, 261} < set(ids[0].tolist())
    return model.eval()(ids).logits


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora2", "lora"])
def test_new_tokens_are_trained_resumed_and_exported(
    method: str, language_model: Path, rows: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    runs = [tmp_path / "whole", tmp_path / "resumed"]
    chosen = {"method": method, "save_strategy": "steps", "save_steps": 2} | OWN
    step = RunSftTrainer.training_step

    def interrupted(self, *arguments, **named):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    options = (f"--train_file={rows}", *NEW)
    assert train_texts(language_model, runs[0], *options, **chosen) == 0
    saved = saved_weights(runs[0])
    checkpoint, *_ = (runs[0] / "checkpoints").glob("*/adapter_model.safetensors")
    assert load_file(checkpoint).keys() == saved.keys()
    if method == "lora2":
        with monkeypatch.context() as patch:
            patch.setattr(RunSftTrainer, "training_step", interrupted)
            assert train_texts(language_model, runs[1], *options, **chosen) == 130
        assert lora2("train", "--output_dir", runs[1], "--resume") == 0
        resumed = saved_weights(runs[1])
        assert all(torch.equal(resumed[name], saved[name]) for name in saved)
    (name,) = (name for name in saved if "token" in name)
    assert saved[name].shape == (2, 16)

    run, tokenizer = runs[0], AutoTokenizer.from_pretrained(runs[0] / "adapter")
    assert tokenizer.convert_ids_to_tokens([260, 261]) == ["<tool>", "</tool>"]
    expected = logits(load_saved_run(run).model, tokenizer)
    assert lora2("evaluate", run) == lora2("generate", run, "--prompt=call 3:") == 0
    assert lora2("export", run, "--to=merged", "--output", tmp_path / "merged") == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-5, rtol=1e-4)
    capsys.readouterr()
    if method == "lora":
        return
    assert lora2("export", run, "--to=lora", "--output", tmp_path / "lora") == 0
    assert "resize_token_embeddings(262)" in capsys.readouterr().out
    assert "resize_token_embeddings(262)" in (tmp_path / "lora" / "README.md").read_text()
    lora = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora")
    torch.testing.assert_close(logits(lora, tokenizer), expected, atol=1e-5, rtol=1e-4)
    said = refused(capsys, "export", run, "--to=gguf", "--output", tmp_path / "lora.gguf")
    assert "rows of tokens" in said
    assert "rows of tokens" in refused(
        capsys, "combine", *runs, "--heads=average", "--output", tmp_path / "sum"
    )
    assert lora2("combine", *runs, "--heads=first", "--output", tmp_path / "sum") == 0
    found = load_saved_run(tmp_path / "sum").model
    ((rows_name, of_sum),) = (
        (name, tensor)
        for name, tensor in saved_weights(tmp_path / "sum").items()
        if "token" in name
    )
    assert torch.equal(of_sum, saved[rows_name])
    assert found.get_base_model().config.vocab_size == 262


def model_and_tokenizer(folder: Path, **config: bool) -> tuple:
    if config:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | config))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


class Settings:
    """What of a run's settings new tokens depend on."""

    def __init__(self, *tokens: str, rows: object = None) -> None:
        self.text = type("", (), {"new_tokens": list(tokens)})
        self.model = type("", (), {"model": "tiny"})
        self.adapter = {"start_from": None, "trainable_token_indices": rows}


@pytest.mark.parametrize("tied", [True, False])
def test_rows_start_near_the_mean_and_the_head_has_some_too(tied: bool, tmp_path: Path) -> None:
    folder = save_language_model(tmp_path / "model")
    model, tokenizer = model_and_tokenizer(folder, tie_word_embeddings=tied)
    mean = model.model.embed_tokens.weight.mean(0)
    options = with_new_tokens(Settings("<a>", rows=[7]), tokenizer, model)
    ids = {"model.embed_tokens": [7, 260]} | ({} if tied else {"lm_head": [260]})
    assert options == {"start_from": None, "trainable_token_indices": ids}
    assert model.model.embed_tokens.weight.shape == model.lm_head.weight.shape == (261, 16)
    torch.testing.assert_close(model.model.embed_tokens.weight[260], mean, atol=1e-3, rtol=0)
    assert tokenizer.decode(tokenizer("x<a>y").input_ids, skip_special_tokens=True) == "x<a>y"


def test_rows_that_the_model_lacked_before_are_trained_too(language_model: Path) -> None:
    model, tokenizer = model_and_tokenizer(language_model)
    model.resize_token_embeddings(258)
    options = with_new_tokens(Settings("<a>"), tokenizer, model)
    assert options["trainable_token_indices"] == {"model.embed_tokens": [258, 259, 260]}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--new_tokens", "<end>"], "<end> is in the vocabulary of .* already .token 2.; leave"),
        (["--new_tokens", "<a>", "<a>"], "<a> is given twice; write it once"),
        (["--new_tokens", " "], "' ' is blank; write a token such as <tool>"),
        (["--new_tokens", ""], "'' is blank"),
        (["--new_tokens"], "new_tokens"),
        ({"method": "full", "new_tokens": "<a>"}, "new_tokens=<a> .*a --method that trains no"),
        ({"start_from": "run", "new_tokens": "<a>"}, "new_tokens=<a> .* with --start_from"),
        (["--trainable_token_indices=260"], "no token 260 among the 260 of model.embed_tokens"),
        (["--trainable_token_indices=-1"], "trainable_token_indices=.-1.: write a list"),
        (["--trainable_token_indices", "3", "3"], "3 is there twice"),
    ],
    ids=str,
)
def test_tokens_that_cannot_be_added_are_refused(
    more: list | dict, said: str, language_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = ("train", "--objective=sft", f"--model={language_model}")
    options = text_options(**more) if isinstance(more, dict) else [*text_options(), *more]
    found = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *options)
    assert re.search(said, found), found
    assert not (tmp_path / "run").exists()


def test_new_tokens_are_of_texts(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "--new_tokens=<a>")
    assert "new_tokens=<a>" in said
    assert "--objective sft" in said
