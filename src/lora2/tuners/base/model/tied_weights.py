"""Ties of transformers models that a merge breaks, so that the merged model is saved whole.

transformers saves a weight of several modules once, and from_pretrained puts it into all of them,
or into none with tie_word_embeddings=False. Neither is right for tied modules of which one has a
merged weight of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora2.tuners.base.layers.finding import modules_of_type
from lora2.tuners.base.model.weight_owners import overlap


@contextmanager
def untying_broken_ties(model: nn.Module) -> Iterator[None]:
    """Give all tied modules weights of their own if the block gives one of them another weight.

    Adapters are to be unloaded within.
    """
    configs = [
        part.config
        for part in modules_of_type(model, PreTrainedModel)
        if getattr(part.config, "tie_word_embeddings", False)
    ]
    yield
    # PEFT switches some of them off, and a config that is off has no ties to look for.
    left = [config.tie_word_embeddings for config in configs]
    for config in configs:
        config.tie_word_embeddings = True
    ties = list(_ties(model))
    is_broken = any(_is_broken(*tie) for tie in ties)
    if is_broken:
        _untie([holder for tie in ties for holder in tie])
    for config, was_left in zip(configs, left, strict=True):
        config.tie_word_embeddings = was_left and not is_broken


def _ties(model: nn.Module) -> Iterator[tuple[tuple[nn.Module, str], tuple[nn.Module, str]]]:
    """Yield pairs of modules that the configs tie, each with the name of its tensor."""
    for part in modules_of_type(model, PreTrainedModel):
        for names in part.get_expanded_tied_weights_keys(all_submodels=False).items():
            (target, _, tensor), (source, _, other) = (name.rpartition(".") for name in names)
            yield (part.get_submodule(target), tensor), (part.get_submodule(source), other)


def _is_broken(target: tuple[nn.Module, str], source: tuple[nn.Module, str]) -> bool:
    first, second = _tensor(*target), _tensor(*source)
    # Of weights that are not in memory it is not known.
    return not (first.is_meta or second.is_meta or overlap(first, second))


@torch.inference_mode(False)
@torch.no_grad()
def _untie(holders: list[tuple[nn.Module, str]]) -> None:
    """Leave a shared tensor to the first module that holds it, and give copies to the others."""
    kept: list[tuple[nn.Module, str]] = []
    for holder in holders:
        tensor = _tensor(*holder)
        if holder not in kept and any(overlap(tensor, _tensor(*each)) for each in kept):
            setattr(*holder, copy.deepcopy(tensor))
        elif holder not in kept:
            kept.append(holder)


def _tensor(module: nn.Module, name: str) -> Tensor:
    tensor: Tensor = getattr(module, name)
    return tensor
