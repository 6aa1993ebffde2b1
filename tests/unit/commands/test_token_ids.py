"""A tokenizer that makes tokens which its model has no embedding for."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModel, AutoModelForCausalLM

from command_line import refused, small_options
from language_model import prepared_run
from lora2.errors import UserError


def with_few_embeddings(model: Path, folder: Path, kind: type) -> Path:
    shutil.copytree(model, folder)
    loaded = kind.from_pretrained(model)
    loaded.resize_token_embeddings(5)
    loaded.save_pretrained(folder)
    return folder


def test_unknown_tokens_of_texts_are_refused_in_one_sentence(tiny_model, tmp_path, capsys):
    model = with_few_embeddings(tiny_model, tmp_path / "model", AutoModel)
    said = refused(
        capsys, "train", f"--model={model}", f"--output_dir={tmp_path / 'run'}", *small_options()
    )
    assert said.startswith(f"lora2: model: the tokenizer of {model} makes token ")
    assert "embeddings of 5 tokens" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_unknown_tokens_of_chats_are_refused_in_one_sentence(objective, language_model, tmp_path):
    model = with_few_embeddings(language_model, tmp_path / "model", AutoModelForCausalLM)
    with pytest.raises(UserError, match="embeddings of 5 tokens"):
        prepared_run(model, tmp_path / "run", objective)
