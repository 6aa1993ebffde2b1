"""Writes model cards, and has PEFT write ours with every adapter of our methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from peft import PeftModel

from lora2.exchange.model_card.facts import AdapterFacts, facts_of, pipeline_of
from lora2.exchange.model_card.words import RunFacts, adapter_card, lora_card
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.registration import wrap_once

NAME = "README.md"
# Between these lines the text is replaced when the adapter is saved again; all else is the user's.
_BEGIN, _END = "<!-- written by lora2 -->", "<!-- end of what lora2 writes -->"


def make_cards_ours() -> None:
    """Have PEFT's model cards say what an adapter of our methods needs."""
    wrap_once(PeftModel, "create_or_update_model_card", _writing_ours)


def _writing_ours(original: Callable[[PeftModel, str], None]) -> Callable[[PeftModel, str], None]:
    def create_or_update(self: PeftModel, output_dir: str) -> None:
        if not isinstance(self.active_peft_config, TargetConfig):
            original(self, output_dir)
            return
        facts = facts_of(self)
        path = Path(output_dir) / NAME
        _put(path, adapter_card(facts))
        original(self, output_dir)
        _correct(path, facts, ["lora2"])

    return create_or_update


def write_run_card(model: PeftModel, folder: Path, run: RunFacts) -> None:
    """Write the card of an adapter that a training run has just saved into a folder."""
    facts = dataclasses.replace(facts_of(model), method=run.method)
    path = folder / NAME
    if not facts.needs_lora2:
        # PEFT's has nothing but headings.
        path.unlink(missing_ok=True)
    _put(path, adapter_card(facts, run))
    _correct(path, facts, ["lora2"] if facts.needs_lora2 else [])


def write_lora_card(
    model: PeftModel, adapter_name: str, folder: Path, ranks: Mapping[str, int]
) -> None:
    """Write the card of a LoRA that was exported from an adapter."""
    facts, path = facts_of(model, adapter_name), folder / NAME
    _put(path, lora_card(facts, ranks))
    _correct(path, facts, ["lora"])


def _put(path: Path, text: str) -> None:
    """Write our part of a card: in the place of the old one, or before all else."""
    part = f"{_BEGIN}\n\n{text}\n\n{_END}"
    if not path.exists():
        ModelCard(f"---\nlibrary_name: peft\n---\n\n{part}\n").save(path)
        return
    card = ModelCard.load(path)
    before, begin, rest = card.text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    card.text = f"{before}{part}{after}" if begin and end else f"\n{part}\n\n{card.text.lstrip()}"
    card.save(path)


def _correct(path: Path, facts: AdapterFacts, tags: list[str]) -> None:
    """Set the metadata: no path as the base model, and the tags that find the card."""
    card = ModelCard.load(path)
    data: Any = card.data
    # PEFT writes the path of a local model as its name on the hub.
    kept = {tag for tag in data.tags or [] if not tag.startswith("base_model:")}
    if facts.base.hub_id is not None:
        data["base_model"] = facts.base.hub_id
        kept.add(f"base_model:adapter:{facts.base.hub_id}")
    else:
        data.base_model = None
    data["tags"] = sorted(kept | set(tags) | ({"transformers"} if facts.base_class else set()))
    pipeline = pipeline_of(facts)
    if pipeline is not None and facts.base_class and not data.pipeline_tag:
        data["pipeline_tag"] = pipeline
    card.save(path)
