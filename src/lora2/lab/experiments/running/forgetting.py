"""What of the base model's ability a run has lost, seen on texts that are of no task.

Of a language model it is the loss on them, before and after. An encoder with a head has no such
loss; what it can do without the head is to tell texts apart, by the means of its last hidden states
over each text. So it is the distance of these means from the pretrained model's: 1 − cosine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from lora2.support.evaluation_mode import in_evaluation
from lora2.training.objectives.output import TEXTS
from lora2.training.objectives.registry import objective_of
from lora2.training.prepare import PreparedRun

OTHER_TEXTS = (
    "The ferry to the island leaves every morning at seven, unless the wind is too strong.",
    "Bread needs flour, water, salt and time; the rest is a matter of habit.",
    "In the old town the streets are so narrow that the tram has only one track.",
    "Glaciers move slowly, but they carry stones the size of a house down into the valley.",
    "She had kept all his letters in a tin box, and she read none of them again.",
    "A prime number has no divisors except one and itself, and there are infinitely many of them.",
    "The library closes at eight, but the reading room on the second floor stays open until ten.",
    "Copper was used for tools long before anyone knew how to make iron.",
    "When the rain stopped, the children ran out to see how high the river had risen.",
    "Most of the energy in a power station is lost as heat before it reaches a lamp.",
    "The committee met twice and agreed on nothing, except on the date of the next meeting.",
    "Bees find their way by the position of the sun, even when clouds hide it.",
    "He repaired clocks for forty years and was late for dinner nearly every evening.",
    "The treaty was signed in a railway carriage, because no other room was heated.",
    "Salt lowers the temperature at which water freezes, so it is spread on roads in winter.",
    "The second violin is harder to play well than the first, and nobody thanks you for it.",
    "From the top of the hill one can see three countries and a very large parking lot.",
    "Vaccines teach the immune system to recognise a disease that it has never met.",
    "The shop sells maps of cities that no longer exist, and they are not cheap.",
    "An old proverb says that a good neighbour is worth more than a distant relative.",
    "The new bridge was finished in spring, two years late and a little shorter than planned.",
    "Light from the nearest star takes more than four years to arrive here.",
    "They walked along the canal and talked about everything except the reason they had met.",
    "If the soup is too salty, add a potato, cook it for a while and take it out again.",
)
"""Plain sentences, written for this purpose: no task is made of them."""

_LENGTH = 64


@torch.no_grad()
def ability(prepared: PreparedRun) -> Tensor:
    """Return what is compared of a run's model: its loss [], or its mean hidden states [texts, d].

    The model is left as it was, and no random number is drawn.
    """
    model: Any = prepared.trainer.model
    tokenizer: Any = prepared.preprocessor
    batch = tokenizer(
        list(OTHER_TEXTS),
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=_LENGTH,
        return_tensors="pt",
    ).to(next(model.parameters()).device)
    writes = objective_of(prepared.settings).output is TEXTS
    with in_evaluation(model):
        found = _loss(model, batch) if writes else _means(model, batch)
    return found.float().cpu()


def lost(prepared: PreparedRun, before: Tensor, after: Tensor) -> dict[str, float]:
    """Return what a record says of two abilities: the losses, or the mean distance."""
    if objective_of(prepared.settings).output is TEXTS:
        return {"loss_before": float(before), "loss_after": float(after)}
    return {"distance": float(1 - cosine_similarity(before, after).mean())}


def _loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the mean loss of the texts' tokens, in nats; those that a method adds do not count."""
    mask = batch["attention_mask"][:, 1:].bool()
    logits = model(**batch).logits[:, -batch["input_ids"].shape[1] : -1]
    return cross_entropy(logits[mask].float(), batch["input_ids"][:, 1:][mask])


def _means(model: nn.Module, batch: Any) -> Tensor:
    length = batch["input_ids"].shape[1]
    states = model(**batch, output_hidden_states=True).hidden_states[-1][:, -length:].float()
    mask = batch["attention_mask"].unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1)
