"""Tokens that a run adds to the vocabulary of its model, and whose rows it trains."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora2.errors import UserError
from lora2.training.arguments import RunSettings
from lora2.training.models import quiet_loading
from lora2.tuners.base.token_rows import FIELD, Indices, by_module


def with_new_tokens(
    settings: RunSettings, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> dict[str, Any]:
    """Add the new tokens of a run to tokenizer and model; return the options of its adapter.

    Raises:
        UserError: a token that is blank, given twice, or in the vocabulary already.
    """
    tokens = settings.text.new_tokens
    if not tokens:
        return settings.adapter
    _check(tokens, tokenizer, settings.model.model)
    # Not special: what the model writes is shown without special tokens.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    had = _rows(model)
    grow_vocabulary(model, len(tokenizer))
    # Every row that is new here would be another one when the run is loaded.
    added = sorted({*tokenizer.convert_tokens_to_ids(tokens), *range(had, len(tokenizer))})
    return settings.adapter | {FIELD: _with_rows(model, settings.adapter[FIELD], added)}


def grow_vocabulary(model: PreTrainedModel, tokens: int) -> None:
    """Give a model rows for this many tokens, if it has fewer, near the mean of those it has."""
    if tokens > _rows(model):
        with quiet_loading():
            model.resize_token_embeddings(tokens)


def grow_as_saved(model: PreTrainedModel, config: PretrainedConfig) -> None:
    """Give a base model rows for the tokens that its run has added; config: the run's."""
    grow_vocabulary(model, config.get_text_config().vocab_size)


def _rows(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _with_rows(model: PreTrainedModel, asked: Indices | None, added: list[int]) -> Indices:
    """Return the rows to train: those asked for, and the added ones of embedding and head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    rows = {name: list(ids) for name, ids in by_module(model, asked).items()}
    # PEFT takes a head that shares the embedding's weight along.
    ends = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    for module in ends:
        rows[names[module]] = [*rows.get(names[module], ()), *added]
    return rows


def _check(tokens: list[str], tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if not token.strip():
            raise UserError(f"new_tokens: {token!r} is blank; write a token such as <tool>.")
        if tokens.count(token) > 1:
            raise UserError(f"new_tokens: {token} is given twice; write it once.")
        if token in vocabulary:
            raise UserError(
                f"new_tokens: {token} is in the vocabulary of {model} already (token "
                f"{vocabulary[token]}); leave it out, or write --{FIELD} {vocabulary[token]} to "
                "train its row."
            )
