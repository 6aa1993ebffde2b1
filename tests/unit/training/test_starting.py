"""What an adapter brings to a training that starts from it: its tokens, and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_line import lora2, refused
from language_model import prepared_run, save_language_model, text_options, write_rows
from lora2 import Lora2Config, UserError
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.starting import continue_from
from lora2.training.options.arguments import RunSettings
from unit.tiny_transformers import tiny_bert

NEW = ["<tool>", "</tool>"]
OPTIONS = RunSettings.from_options({}).adapter
CONFIGS = {"lora": LoraConfig, "lora2": Lora2Config}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of 260 tokens; do not write into it."""
    return save_language_model(tmp_path_factory.mktemp("base"), layers=1)


def adapter_with_tokens(
    base: Path, folder: Path, method: str = "lora", ids: Any = (260, 261), rows: int = 262
) -> PeftModel:
    """Save an adapter of a model with new tokens, and their tokenizer, as a training does."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), tokenizer_of(base)
    tokenizer.add_tokens(NEW)
    model.resize_token_embeddings(rows)
    config = CONFIGS[method](
        target_modules=["q_proj"],
        task_type="CAUSAL_LM",
        trainable_token_indices=list(ids) or None,
        base_model_name_or_path=str(base),
    )
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    return adapted


def tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(torch.tensor([[260, 65, 261, 66]])).logits


@pytest.mark.parametrize("method", CONFIGS)
def test_training_starts_with_the_tokens_of_an_adapter(
    method: str, base: Path, tmp_path: Path
) -> None:
    expected = logits(adapter_with_tokens(base, tmp_path / "start", method))
    rows = write_rows(tmp_path / "rows.jsonl", *[{"text": "<tool>a</tool>"}] * 20)
    own = {"train_file": rows, "train_rows": None, "validation_rows": None}
    chosen = {"exact_match_rows": 0, "start_from": tmp_path / "start"} | own
    prepared = prepared_run(base, tmp_path / "run", **chosen)
    model = prepared.trainer.model
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    assert prepared.preprocessor("<tool>a</tool>").input_ids[::2] == [260, 261]
    (name,) = (n for n, p in model.named_parameters() if "token" in n and p.requires_grad)
    assert model.get_parameter(name).shape == (2, 16)


@pytest.mark.parametrize(
    ("ids", "own_tokens", "said"),
    [
        ([260, 261], ["<mine>"], "'<tool>' is token 260 of the adapter in .* cannot be that of"),
        ([260], [], "has no row of model.embed_tokens for token 261, which was added"),
        ([], [], "has no row of model.embed_tokens for token 260"),
    ],
)
def test_tokens_that_cannot_be_taken_over_are_refused(
    ids: list[int], own_tokens: list[str], said: str, base: Path, tmp_path: Path
) -> None:
    adapter_with_tokens(base, tmp_path / "start", ids=ids)
    model = save_language_model(tmp_path / "model", layers=1) if own_tokens else base
    if own_tokens:
        tokenizer = tokenizer_of(model)
        tokenizer.add_tokens(own_tokens)
        tokenizer.save_pretrained(model)
    with pytest.raises(UserError, match=f"^start_from: .*{said}"):
        prepared_run(model, tmp_path / "run", start_from=tmp_path / "start", exact_match_rows=0)


def test_a_lora_with_new_tokens_is_imported_with_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = logits(adapter_with_tokens(base, tmp_path / "lora"))
    assert lora2("import", tmp_path / "lora", "--output", tmp_path / "ours", "--target_r=none") == 0
    assert "resize_token_embeddings(262)" in capsys.readouterr().out
    assert tokenizer_of(tmp_path / "ours").convert_tokens_to_ids(NEW) == [260, 261]
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(262)
    imported = PeftModel.from_pretrained(model, tmp_path / "ours")
    torch.testing.assert_close(logits(imported), expected, atol=1e-5, rtol=1e-4)


def test_rows_of_tokens_without_a_tokenizer_are_refused(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter_with_tokens(base, tmp_path / "lora")
    (tmp_path / "lora" / "tokenizer_config.json").unlink()
    said = "no token 261 among the 260 of model.embed_tokens; give a model with a row for each"
    assert said in refused(capsys, "import", tmp_path / "lora", "--output", tmp_path / "ours")
    start = ("train", "--objective=sft", f"--model={base}", f"--output_dir={tmp_path / 'run'}")
    assert said in refused(capsys, *start, *text_options(start_from=tmp_path / "lora"))
    assert not (tmp_path / "ours").exists()
    assert not (tmp_path / "run").exists()


def classifier(**fields: Any) -> BaseModel:
    model = tiny_bert()
    for name, value in fields.items():
        setattr(model.config, name, value)
    return BaseModel(model, (), TaskType.SEQ_CLS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id2label": {0: "no", 1: "yes"}}, "for the 2 labels 'bad, good', .*2 labels 'no, yes'"),
        ({"id2label": {0: "good", 1: "bad"}}, "the 2 labels 'good, bad'"),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, "the 3 labels 'a, b, c'"),
        ({"problem_type": "regression"}, "this run have numbers"),
    ],
)
def test_a_start_of_other_labels_is_refused(
    fields: dict[str, Any], said: str, tmp_path: Path
) -> None:
    before = classifier(id2label={0: "bad", 1: "good"})
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    get_peft_model(before.model, config).save_pretrained(str(tmp_path))
    before.model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^start_from: .*{said}.*; give data with the same"):
        continue_from(classifier(**fields), tmp_path, OPTIONS)
    assert continue_from(classifier(id2label={0: "bad", 1: "good"}), tmp_path, OPTIONS)


def test_a_head_of_another_size_is_not_called_another_base_model(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    get_peft_model(tiny_bert(), config).save_pretrained(str(tmp_path))
    other = tiny_bert(num_labels=5)
    with pytest.raises(
        UserError, match=r"the classifier in the adapter in .* and that of this model 5;"
    ):
        continue_from(BaseModel(other, (), TaskType.SEQ_CLS), tmp_path, OPTIONS)
