"""Tokenization with a tokenizer made here, of a few whole words."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from lora2.data.tasks.labelled_task import LabelledTextTask, build_dataset
from lora2.data.tokenization import texts as module
from lora2.data.tokenization.texts import tokenize, tokenize_dataset
from lora2.errors import UserError

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "c": 6}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=16,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def task(texts: list[list[str]], labels: list, kind: str = "classification") -> LabelledTextTask:
    dataset = build_dataset(texts, labels, kind)
    sets = {"matched": dataset, "mismatched": dataset}
    names = ("no", "yes") if kind == "classification" else ()
    return LabelledTextTask(
        name="t", text_columns=("text",), label_column="label", kind=kind, label_names=names,
        train=dataset, validation=sets, metrics=("accuracy",), main_metric="accuracy",
    )  # fmt: skip


def test_all_sets_are_tokenized_and_truncated_but_not_padded(tokenizer):
    sets = tokenize(task([["a b", "c b a c c"]], [1, 0]), tokenizer, max_length=5)
    assert list(sets) == ["train", "matched", "mismatched"]
    for dataset in sets.values():
        assert dataset[:] == {
            "input_ids": [[2, 4, 5, 3], [2, 6, 5, 4, 3]],
            "token_type_ids": [[0] * 4, [0] * 5],
            "attention_mask": [[1] * 4, [1] * 5],
            "labels": [1, 0],
        }


def test_pairs_are_one_sequence_of_two_segments(tokenizer):
    train = tokenize(task([["a"], ["b c"]], [3.5], "regression"), tokenizer, 16)["train"]
    assert train[0]["input_ids"] == [2, 4, 3, 5, 6, 3]
    assert train[0]["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    assert train[0]["labels"] == 3.5


def test_texts_without_labels_are_tokenized_for_prediction(tokenizer):
    dataset = tokenize_dataset(build_dataset([["a", "b"]], None), tokenizer, 16)
    assert "labels" not in dataset.column_names
    assert len(dataset) == 2


def test_batches_keep_the_order_of_rows(tokenizer, monkeypatch):
    data = task([["a", "b", "c", "a", "b"]], [0, 1, 0, 1, 0])
    whole = tokenize(data, tokenizer, 16)["train"]
    monkeypatch.setattr(module, "_BATCH", 2)
    assert tokenize(data, tokenizer, 16)["train"][:] == whole[:]


def test_the_collator_of_transformers_pads_the_rows(tokenizer):
    train = tokenize(task([["a", "a b c"]], [0, 1]), tokenizer, 16)["train"]
    batch = DataCollatorWithPadding(tokenizer)([train[0], train[1]])
    assert batch["input_ids"].tolist() == [[2, 4, 3, 0, 0], [2, 4, 5, 6, 3]]
    assert batch["labels"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("max_length", "words"), [(17, "at most 16"), (2, "at least 3"), (0, "at least 3")]
)
def test_an_impossible_max_length_is_refused(tokenizer, max_length, words):
    with pytest.raises(UserError, match=f"max_length: got {max_length},.* {words}"):
        tokenize(task([["a"]], [0]), tokenizer, max_length)


def test_texts_of_no_token_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(UserError, match="1 of 2 texts are empty, and the model's tokenizer adds"):
        tokenize_dataset(task([["a", ""]], [0, 1]).train, tokenizer, 8)


def test_nothing_is_left_on_the_disk(tokenizer, tmp_path: Path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sets = tokenize(task([["a", "b"]], [0, 1]), tokenizer, 16)
    assert sets["train"].cache_files == []
    assert list(tmp_path.iterdir()) == []
