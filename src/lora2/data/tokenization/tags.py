"""From words and tags to token ids: the first piece of a word carries its tag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora2.data.tasks.tagged_task import TAGS_COLUMN, TOKENS_COLUMN
from lora2.data.tokenization.texts import check_max_length, in_parts
from lora2.errors import UserError
from lora2.support.ignored_label import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PIECES_COLUMN = "first_pieces"
"""Of each word, the place of its first piece; NO_PIECE where a word has none, or is cut off."""

NO_PIECE = -1


def tokenize_tagged(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    """Tokenize rows of words, with or without tags; rows are truncated to `max_length` tokens.

    Returns:
        Columns `input_ids`, `attention_mask`, `token_type_ids` (if the tokenizer makes them),
        `first_pieces`, and `labels` where there are tags.

    Raises:
        UserError: a tokenizer that cannot say which word a piece is of, or a `max_length` that is
            more than the model reads or leaves no room for a word.
    """
    check_max_length(tokenizer, max_length, pairs=False)
    if not tokenizer.is_fast:
        raise UserError(
            "model: its tokenizer cannot say which word a piece is of; give a model that has a "
            "tokenizer.json."
        )

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoding = tokenizer(
            rows[TOKENS_COLUMN], is_split_into_words=True, truncation=True, max_length=max_length
        )
        encoded: dict[str, Any] = dict(encoding)
        encoded[PIECES_COLUMN] = [
            _first_pieces(encoding.word_ids(row), len(words))
            for row, words in enumerate(rows[TOKENS_COLUMN])
        ]
        if TAGS_COLUMN in rows:
            encoded["labels"] = [
                _labels(tags, pieces, len(ids))
                for tags, pieces, ids in zip(
                    rows[TAGS_COLUMN], encoded[PIECES_COLUMN], encoded["input_ids"], strict=True
                )
            ]
        return encoded

    return in_parts(dataset, encode)


def _first_pieces(word_ids: list[int | None], words: int) -> list[int]:
    pieces = [NO_PIECE] * words
    for place, word in enumerate(word_ids):
        if word is not None and pieces[word] == NO_PIECE:
            pieces[word] = place
    return pieces


def _labels(tags: list[int], pieces: list[int], length: int) -> list[int]:
    labels = [IGNORED] * length
    for tag, piece in zip(tags, pieces, strict=True):
        if piece != NO_PIECE:
            labels[piece] = tag
    return labels
