"""What a model is scored by: the answers that it writes, and the loss on other texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedTokenizerBase

from lora2.training.base_models.generation import end_tokens
from lora2.training.quiet import quiet_loading
from peft_comparison.task_data import Accuracy, Row
from peft_comparison.train_config import TrainConfig


class OtherLoss(NamedTuple):
    """Mean losses per token on texts that are not of the task.

    Attributes:
        same_position: of each token by what is computed at its own place, which is what PEFT's
            comparison takes.
        next_token: of each token by what is computed at the place before it, the usual loss.
    """

    same_position: float
    next_token: float


def accuracy_on(
    rows: Sequence[Row],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
    accuracy: Accuracy,
) -> float:
    """Return the share of rows that a model answers right."""
    written: list[str] = []
    for start in range(0, len(rows), config.batch_size_eval):
        asked = [query for query, _ in rows[start : start + config.batch_size_eval]]
        written += answers(asked, model, tokenizer, config)
    return accuracy(written, [answer for _, answer in rows])


@torch.no_grad()
def answers(
    asked: Sequence[str], model: Any, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> list[str]:
    """Return what a model writes after one batch of questions."""
    prompts = [config.query_template.format(query=query) for query in asked]
    batch = _encoded(prompts, tokenizer, config.max_seq_length).to(model.device)
    length = batch["input_ids"].shape[1]
    options = generation_config(config.generation_kwargs, length)
    # A GGUF file has no generation_config.
    options.eos_token_id = options.eos_token_id or end_tokens(model, tokenizer)
    options.pad_token_id = tokenizer.eos_token_id
    # What a checkpoint says of temperatures is not used, and transformers would say so.
    with quiet_loading():
        tokens = model.generate(**batch, generation_config=options)
    return tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)


def generation_config(given: Mapping[str, Any], length: int) -> GenerationConfig:
    """Return how prompts of `length` tokens are answered: greedily, where nothing else is given.

    Of max_length and max_new_tokens the one counts that ends an answer first, as PEFT's README
    says; transformers would take the second.
    """
    options = {"do_sample": False, **{k: v for k, v in given.items() if v is not None}}
    if "max_length" in options:
        room = max(1, options["max_length"] - length)
        options["max_new_tokens"] = min(room, options.get("max_new_tokens", room))
        del options["max_length"]
    return GenerationConfig(**options)


@torch.no_grad()
def loss_on_other_texts(
    texts: Sequence[str], model: Any, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> OtherLoss:
    """Return the mean losses per token of texts, cut off at `max_seq_length` tokens."""
    same, following = [], []
    for start in range(0, len(texts), config.batch_size):
        batch = _encoded(
            texts[start : start + config.batch_size], tokenizer, config.max_seq_length
        ).to(model.device)
        logits = model(**batch).logits
        for row, tokens, mask in zip(
            logits, batch["input_ids"], batch["attention_mask"], strict=True
        ):
            # Padding is on the left, and so is what prompt tuning puts in front.
            count = int(mask.sum())
            scores, target = row[-count:].float(), tokens[-count:]
            same.append(_losses(scores, target))
            following.append(_losses(scores[:-1], target[1:]))
    return OtherLoss(float(torch.cat(same).mean()), float(torch.cat(following).mean()))


def _losses(scores: Tensor, target: Tensor) -> Tensor:
    """Return a loss for each token [tokens], of scores [tokens, vocabulary]."""
    return F.cross_entropy(scores, target, reduction="none").cpu()


def _encoded(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, longest: int) -> Any:
    return tokenizer(
        list(texts),
        truncation=True,
        max_length=longest,
        padding=True,
        padding_side="left",
        return_token_type_ids=False,
        return_tensors="pt",
    )
