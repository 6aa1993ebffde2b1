"""Tokens that a run adds to the vocabulary of its model, and whose rows it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lora2.errors import UserError
from lora2.support.error_text import in_one_sentence
from lora2.training.base_models.models import load_config
from lora2.training.options.arguments import RunSettings
from lora2.training.quiet import quiet_loading
from lora2.tuners.base.loading import find_adapter, read_adapter_config
from lora2.tuners.base.names.peft_names import ROWS, Indices
from lora2.tuners.base.token_rows.finding import by_module

_TOKENIZER = "tokenizer_config.json"


def with_new_tokens(
    settings: RunSettings, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> dict[str, Any]:
    """Add the new tokens of a run to tokenizer and model; return the options of its adapter.

    They are those of its options, or those of the adapter that it starts from.

    Raises:
        UserError: a token that is blank, given twice, or in the vocabulary already; or an adapter
            to start from with the tokens of another model.
    """
    start = settings.adapter["start_from"]
    # Only models that write get rows for new tokens again when a run is loaded.
    if start is not None and model.get_output_embeddings() is not None:
        _take_over(find_adapter(Path(start), "start_from"), tokenizer, model, settings.model.model)
    tokens = settings.text.new_tokens
    if not tokens:
        return settings.adapter
    _check(tokens, tokenizer, settings.model.model)
    # They are not special tokens, because texts are shown without special tokens.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    had = _rows(model)
    grow_vocabulary(model, len(tokenizer))
    # All new rows are trained and saved, because loading draws others in their place.
    added = sorted({*tokenizer.convert_tokens_to_ids(tokens), *range(had, len(tokenizer))})
    return settings.adapter | {ROWS: _with_rows(model, settings.adapter[ROWS], added)}


def tokenizer_of(adapter: Path) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that was saved with an adapter; None if none was.

    Raises:
        UserError: it cannot be loaded.
    """
    if not (adapter / _TOKENIZER).is_file():
        return None
    advice = "restore its files from a copy, or train the adapter again"
    with quiet_loading(), in_one_sentence(f"the tokenizer in {adapter} cannot be loaded", advice):
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            adapter, local_files_only=True, trust_remote_code=False
        )
    return found


def _take_over(
    adapter: Path, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str
) -> None:
    """Add the tokens that an adapter was trained with to the tokenizer and the model called `name`.

    Raises:
        UserError: they cannot have the same ids, or the adapter has no rows for them.
    """
    saved = tokenizer_of(adapter)
    if saved is None:
        return
    ids, added = saved.get_vocab(), saved.added_tokens_decoder
    missing = sorted(ids.keys() - tokenizer.get_vocab().keys(), key=ids.__getitem__)
    if all(ids[token] in added for token in missing):
        tokenizer.add_tokens([added[ids[token]] for token in missing])
    for token in missing:
        if tokenizer.convert_tokens_to_ids(token) != ids[token]:
            raise UserError(
                f"start_from: {token!r} is token {ids[token]} of the adapter in {adapter}, and "
                f"cannot be that of {name}; give the model that the adapter was trained on."
            )
    had = _rows(model)
    grow_vocabulary(model, len(tokenizer))
    _check_brings_rows(adapter, model, set(range(had, _rows(model))))


def _check_brings_rows(adapter: Path, model: PreTrainedModel, tokens: set[int]) -> None:
    """Check that an adapter has what new rows of a model will hold."""
    config: Any = read_adapter_config(adapter)
    whole = tuple(getattr(config, "modules_to_save", None) or ())
    rows = by_module(model, getattr(config, ROWS, None))
    for name in _with_vocabulary(model):
        lacking = tokens - set(rows.get(name, ()))
        if lacking and not (whole and name.endswith(whole)):
            raise UserError(
                f"start_from: the adapter in {adapter} has no row of {name} for token "
                f"{min(lacking)}, which was added to the vocabulary; start from one that was "
                "trained with --new_tokens, or give a model that has the rows."
            )


def grow_vocabulary(model: PreTrainedModel, tokens: int) -> None:
    """Give a model rows for this many tokens, if it has fewer, near the mean of those it has."""
    if tokens > _rows(model):
        with quiet_loading():
            model.resize_token_embeddings(tokens)


def grow_as_saved(model: PreTrainedModel, config: PretrainedConfig) -> None:
    """Give a base model rows for the tokens that its run has added; config: the run's."""
    grow_vocabulary(model, config.get_text_config().vocab_size)


def rows_to_add(model: PreTrainedModel, base_model: str) -> str | None:
    """Say which rows `base_model` needs under an adapter of the model; None if it has them."""
    rows = _rows(model)
    if rows <= load_config(base_model).get_text_config().vocab_size:
        return None
    return (
        "Before PEFT loads it, the base model needs rows for the tokens: "
        f"resize_token_embeddings({rows}); AutoPeftModelForCausalLM does it"
    )


def _rows(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _with_rows(model: PreTrainedModel, asked: Indices | None, added: list[int]) -> Indices:
    """Return the rows to train: those asked for, and the added ones of embedding and head."""
    rows = {name: list(ids) for name, ids in by_module(model, asked).items()}
    for name in _with_vocabulary(model):
        rows[name] = [*rows.get(name, ()), *added]
    return rows


def _with_vocabulary(model: PreTrainedModel) -> list[str]:
    """Return the names of the embedding, and of the head if it has a weight of its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    # PEFT also trains the rows of a head that shares the embedding's weight.
    ends = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    return [names[module] for module in ends]


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
                f"{vocabulary[token]}); leave it out, or write --{ROWS} {vocabulary[token]} to "
                "train its row."
            )
