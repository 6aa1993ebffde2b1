"""PEFT's contract over sequences of calls: LoRA² ends as a LoRA with the same change does."""

import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from lora2 import compact_adapter
from unit.models import CONV1D, CONV2D, EMBEDDING, LINEAR, Kind, disturb, layers_of

RANK = 8
FORMS = ("exact", "penalty", "none", "k_below_r", "k_above_r", "k_is_one")
CALLS = 12


class Twins:
    """The same base model with LoRA² and with PEFT's LoRA, whose adapters change it alike."""

    def __init__(self, kind: Kind, seed: int) -> None:
        self.kind = kind
        self.random = random.Random(seed)
        self.x = kind.inputs()
        self.x = self.x.double() if self.x.is_floating_point() else self.x
        self.calls: list[str] = []
        mine, theirs = self.configs()
        self.mine, self.theirs = (
            get_peft_model(kind.model().double(), config).double() for config in (mine, theirs)
        )
        self.change("default")

    def configs(self) -> tuple[Any, LoraConfig]:
        """The configs of a new adapter, on all modules of the kind or on some."""
        targets = self.kind.target_modules
        targets = self.random.sample(targets, self.random.randint(1, len(targets)))
        config = self.kind.config(self.random.choice(FORMS), target_modules=targets)
        is_transposed = self.kind is CONV1D
        return config, LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules=targets, fan_in_fan_out=is_transposed
        )

    @torch.no_grad()
    def change(self, name: str) -> None:
        """Give an adapter random factors, and its twin the same change."""
        disturb(self.mine, name, seed=self.random.randrange(1000))
        theirs = dict(self.theirs.named_modules())
        for module, layer in layers_of(self.mine).items():
            if layer.has_adapter(name):
                twin, scaling = theirs[module], layer.scaling[name]
                twin.scaling[name] = scaling
                twin.lora_alpha[name] = RANK * scaling
                for key, value in layer.as_lora(*layer.factors(name)).items():
                    held = getattr(twin, key.removesuffix(".weight"))[name]
                    held = getattr(held, "weight", held).zero_()
                    part = held[tuple(map(slice, value.shape))]
                    # Their factors are stored without the scaling, and ours hold it.
                    part.copy_((value / scaling if "_A" in key else value).view_as(part))

    @property
    def adapters(self) -> list[str]:
        """Names of all adapters."""
        return list(self.mine.peft_config)

    def some_adapters(self) -> list[str]:
        """Names of one or more adapters."""
        return self.random.sample(self.adapters, self.random.randint(1, len(self.adapters)))

    @property
    def is_merged(self) -> bool:
        """Whether any layer is merged."""
        return any(layer.merged for layer in layers_of(self.mine).values())

    def both(self, call: Callable[[PeftModel], Any]) -> None:
        """Call both; their tensors are alike, or both raise."""
        outcomes = []
        for model in (self.mine, self.theirs):
            try:
                outcomes.append(call(model))
            # Which errors PEFT raises is not of interest, but that both do.
            except Exception as error:
                outcomes.append(error)
        mine, theirs = outcomes
        assert isinstance(mine, Exception) == isinstance(theirs, Exception), outcomes
        if isinstance(mine, Tensor):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def add(twins: Twins) -> None:
    """A further adapter."""
    name = f"number_{len(twins.calls)}"
    for model, config in zip((twins.mine, twins.theirs), twins.configs(), strict=True):
        model.add_adapter(name, config)
        model.double()
    twins.change(name)


def activate(twins: Twins) -> None:
    """One adapter or several."""
    names = twins.some_adapters()
    twins.both(lambda model: model.base_model.set_adapter(names))


def merge(twins: Twins) -> None:
    """The active adapters or others."""
    names = twins.random.choice([None, twins.some_adapters()])
    twins.both(lambda model: model.merge_adapter(names, safe_merge=True))


def unmerge(twins: Twins) -> None:
    """All merged adapters."""
    twins.both(lambda model: model.unmerge_adapter())


def delete(twins: Twins) -> None:
    """An adapter, if another is left; a merged one as well."""
    if len(twins.adapters) > 1:
        name = twins.random.choice(twins.adapters)
        twins.both(lambda model: model.delete_adapter(name))
        # PEFT leaves a model whose active adapter was deleted without one.
        twins.both(lambda model: model.set_adapter(twins.adapters[0]))


def disable(twins: Twins) -> None:
    """All adapters, for one pass."""

    def call(model: PeftModel) -> Tensor:
        with model.disable_adapter():
            return model(twins.x)

    twins.both(call)


def mix(twins: Twins) -> None:
    """Other adapters for each row."""
    if not twins.is_merged:
        names = twins.random.choices([*twins.adapters, "__base__"], k=len(twins.x))
        twins.both(lambda model: model(twins.x, adapter_names=names))


def scale(twins: Twins) -> None:
    """The factor of an adapter; PEFT leaves that of embeddings as it is."""
    if not twins.is_merged and twins.kind is not EMBEDDING:
        name = twins.random.choice(twins.adapters)
        for model in (twins.mine, twins.theirs):
            for module in model.modules():
                if hasattr(module, "set_scale"):
                    module.set_scale(name, 0.5)


def load(twins: Twins) -> None:
    """What was saved, in the place of the adapter."""
    if twins.is_merged:
        return
    name = twins.random.choice(twins.adapters)

    def call(model: PeftModel) -> None:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, selected_adapters=[name])
            path = Path(folder) / ("" if name == "default" else name)
            model.load_adapter(str(path), name)
            model.double()

    twins.both(call)


def compact(twins: Twins) -> None:
    """LoRA² alone: its change stays what it is."""
    if not twins.is_merged:
        compact_adapter(twins.mine, twins.random.choice(twins.adapters))


OPERATIONS = (add, activate, merge, unmerge, delete, disable, mix, scale, load, compact)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [LINEAR, CONV1D, EMBEDDING, CONV2D], ids=lambda kind: kind.name)
def test_calls_in_any_order_do_what_those_of_lora_do(kind: Kind, seed: int) -> None:
    twins = Twins(kind, seed)
    with torch.no_grad(), warnings.catch_warnings():
        # PEFT warns of merging what is merged and of unmerging what is not.
        warnings.simplefilter("ignore")
        for _ in range(CALLS):
            operation = twins.random.choice(OPERATIONS)
            twins.calls.append(operation.__name__)
            operation(twins)
            twins.both(lambda model: model(twins.x))
        twins.both(lambda model: model.merge_and_unload()(twins.x))
