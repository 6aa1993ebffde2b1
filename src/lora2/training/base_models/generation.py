"""Texts from a causal language model, in batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from lora2.data.tasks.writing_task import Prompt
from lora2.errors import UserError
from lora2.training.base_models.chat_templates import before_answer, end_of_turn
from lora2.training.base_models.positions import positions_of
from lora2.training.base_models.router_logits import without_router_logits
from lora2.training.quiet import printing_on_standard_error, quiet_loading
from lora2.tuners.base.finite_checks import check_finite_output


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    batch_size: int = 8,
) -> Iterator[str]:
    """Yield what the model writes after each prompt, without special tokens.

    The prompts have been checked by `check_fits`. Of what the checkpoint says of generation, such
    as penalties and beams, only its tokens are used.

    temperature: 0 always takes the likeliest token; above, tokens are drawn.

    Raises:
        NumericalError: naming the layer that computes NaN or infinity.
    """
    positions = positions_of(model)
    for start in range(0, len(prompts), batch_size):
        asked = prompts[start : start + batch_size]
        batch = encode(tokenizer, asked).to(model.device)
        # Nothing can be written after the last position.
        left = max_new_tokens if positions is None else positions - batch["input_ids"].shape[1]
        if left < max_new_tokens and len(asked) > 1:
            # A long prompt must shorten its own answer alone.
            for prompt in asked:
                yield from generate(
                    model, tokenizer, [prompt], max_new_tokens=max_new_tokens,
                    temperature=temperature,
                )  # fmt: skip
            continue
        ends = end_tokens(model, tokenizer)
        if not isinstance(asked[0], str):
            ends += end_of_turn(tokenizer)
        options = GenerationConfig(
            max_new_tokens=min(max_new_tokens, left),
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_k=None if temperature == 0 else 0,
            bos_token_id=model.generation_config.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
        )
        # PEFT would warn that prompt tuning does not use the positions that transformers passes.
        with (
            quiet_loading(),
            printing_on_standard_error(),
            without_router_logits(model),
            _generating_by(options, model),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Position ids are not supported")
            tokens = model.generate(
                **batch,
                generation_config=options,
                logits_processor=LogitsProcessorList([_ScoreCheck(model)]),
            )
        # Prompt tuning puts vectors in front, and returns new tokens after the same prompt.
        written = tokens[:, batch["input_ids"].shape[1] :]
        yield from tokenizer.batch_decode(written, skip_special_tokens=True)


@contextmanager
def _generating_by(options: GenerationConfig, model: Any) -> Iterator[None]:
    """Let a model have no options of generation but these, as long as the context lasts.

    transformers takes from the model's own what the options of a call leave open.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    own = base.generation_config
    base.generation_config = options
    try:
        yield
    finally:
        base.generation_config = own


class _ScoreCheck(LogitsProcessor):
    """Stops where no token has a number for a score: NaN would be taken for the likeliest."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores [rows, vocabulary] as they are."""
        # Only the largest is checked, because forbidden tokens have the score −∞.
        check_finite_output(scores.amax(-1), self._model, partial(self._model, input_ids=input_ids))
        return scores


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> Any:
    """Return the prompts as token ids [rows, tokens], padded on the left, all of one kind."""
    messages = [prompt for prompt in prompts if not isinstance(prompt, str)]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if messages:
        texts = [before_answer(tokenizer, each, "the rows to answer") for each in messages]
    return tokenizer(
        texts,
        # A chat template writes them itself.
        add_special_tokens=not messages,
        return_token_type_ids=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def check_fits(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], role: str
) -> None:
    """Check that every prompt has a token, and leaves the model a position for an answer.

    role: what the prompts were given as, with which the sentence begins.

    Raises:
        UserError: naming the first that does not.
    """
    positions = positions_of(model)
    for number, prompt in enumerate(prompts, start=1):
        tokens = encode(tokenizer, [prompt])["input_ids"].shape[1]
        if tokens == 0:
            raise UserError(
                f"{role}: prompt {number} is empty, and the model's tokenizer adds no token of its "
                "own; write something."
            )
        if positions is not None and tokens >= positions:
            raise UserError(
                f"{role}: prompt {number} has {tokens} tokens, and the model reads {positions} "
                "together with its answer; shorten it."
            )


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: those of the checkpoint, and the tokenizer's."""
    of_model = model.generation_config.eos_token_id
    ids = of_model if isinstance(of_model, list) else [of_model]
    return sorted({each for each in (*ids, tokenizer.eos_token_id) if each is not None})
