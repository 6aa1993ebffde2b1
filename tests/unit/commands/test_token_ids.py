"""A tokenizer that makes tokens which its model has no embedding for."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from command_line import refused, small_options
from language_model import prepared_run
from lora2.errors import UserError
from lora2.training.checks.token_ids import check_token_ids

EMBEDDINGS = 100


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
    assert said.startswith(f"lora2: model: the tokenizer of {model} writes the data with token ")
    assert "embeddings of tokens 0 to 4" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_unknown_tokens_of_chats_are_refused_in_one_sentence(objective, language_model, tmp_path):
    model = with_few_embeddings(language_model, tmp_path / "model", AutoModelForCausalLM)
    with pytest.raises(UserError, match="embeddings of tokens 0 to 4"):
        prepared_run(model, tmp_path / "run", objective)


def test_unknown_padding_is_refused_in_one_sentence(tiny_model, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"[{number}]" for number in range(len(tokenizer), EMBEDDINGS)])
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(model)
    command = ("train", f"--model={model}", f"--output_dir={tmp_path / 'run'}", *small_options())
    assert f"pads with token {EMBEDDINGS}, and the model" in refused(capsys, *command)


@pytest.mark.parametrize(
    ("rows", "token"),
    [
        ({"input_ids": [[1, 7], [], [2]]}, 7),
        ({"prompt_ids": [[1]], "chosen_ids": [[9]], "rejected_ids": [[2]]}, 9),
        ({"input_ids": [[], []]}, None),
        ({"input_ids": [None, None]}, None),
        ({"input_ids": []}, None),
        ({"pixels": [[99]]}, None),
    ],
)
def test_the_largest_token_of_the_data_decides(rows, token):
    sets = {"train": Dataset.from_dict(rows)}
    model = Mock(get_input_embeddings=lambda: torch.nn.Embedding(5, 2))
    with nullcontext() if token is None else pytest.raises(UserError, match=f"token {token}, and"):
        check_token_ids(sets, None, model, "m")


def test_rows_that_were_left_out_do_not_count():
    rows = Dataset.from_dict({"input_ids": [[1], [9], [2]]}).select([0, 2])
    model = Mock(get_input_embeddings=lambda: torch.nn.Embedding(5, 2))
    check_token_ids({"train": rows}, None, model, "m")


def test_a_model_without_a_table_of_embeddings_is_not_checked():
    rows = Dataset.from_dict({"input_ids": [[9]]})
    check_token_ids(
        {"train": rows}, 9, Mock(get_input_embeddings=Mock(side_effect=NotImplementedError)), "m"
    )
