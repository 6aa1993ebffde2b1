"""The README.md that is saved with an adapter."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import (
    AdaLoraConfig,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    get_peft_model,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import AutoModelForCausalLM, ViTConfig, ViTForImageClassification

from command_line import lora2, train
from lora2 import BottleneckConfig, Lora2Config, SoraConfig, export_lora
from lora2.exchange.model_card.base_model import name_of_location
from lora2.exchange.model_card.facts import facts_of
from unit.models import LINEAR, disturb
from unit.tiny_transformers import tiny_llama

CONFIGS = {
    "LORA2": Lora2Config(task_type="CAUSAL_LM", k=3),
    "SORA": SoraConfig(task_type="CAUSAL_LM", r=3),
    "BOTTLENECK": BottleneckConfig(task_type="CAUSAL_LM", target_modules=["o_proj"]),
}


def config_of(name: str) -> Any:
    """A config of its own: PEFT writes the base model into it."""
    return copy.deepcopy(CONFIGS[name])


TOKENS = torch.arange(8)[None] + 3


def saved_base(folder: Path) -> Any:
    """A tiny Llama as it is loaded from a local folder."""
    tiny_llama().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def code_of(folder: Path) -> list[str]:
    """The code that the card in `folder`/adapter shows, for that adapter on `folder`/base."""
    text = card_of(folder / "adapter").text
    for shown, name in (("path/to/base", "base"), ("path/to/this/folder", "adapter")):
        text = text.replace(shown, str(folder / name))
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("name", CONFIGS)
def test_first_lines_say_what_the_adapter_needs(name: str, tmp_path: Path) -> None:
    model = get_peft_model(saved_base(tmp_path / "tiny-llama"), config_of(name))
    model.save_pretrained(tmp_path / "adapter")
    card = card_of(tmp_path / "adapter")
    first = "\n".join(card.text.strip().splitlines()[:6])
    for word in ("tiny-llama", "pip install lora2", "import lora2", f"KeyError: '{name}'"):
        assert word in first
    assert "More Information Needed" not in card.content
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "text-generation"
    assert "lora2" in card.data.tags


def test_card_says_what_was_kept(tmp_path: Path) -> None:
    model = get_peft_model(saved_base(tmp_path / "base"), config_of("LORA2"))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora2_lambda["default"][1:] = 0
    model.save_pretrained(tmp_path / "adapter")
    text = card_of(tmp_path / "adapter").text
    assert "k = 3" in text
    assert "CAUSAL_LM" in text
    assert "1 to 8 in each" in text
    assert "|`model.layers.0.self_attn.q_proj`|1|" in text


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]), "LORA: r = 2, lora_alpha = 4"),
        (
            AdaLoraConfig(
                init_r=6, target_r=2, lora_alpha=4, total_step=9, target_modules=["q_proj"]
            ),
            "ADALORA: init_r = 6, target_r = 2, lora_alpha = 4",
        ),
        (LoraConfig(target_modules=DUMMY_TARGET_MODULES, bias="all"), "LORA"),
        (OFTConfig(oft_block_size=4, target_modules=["q_proj"]), "OFT: oft_block_size = 4"),
        (OFTConfig(r=2, oft_block_size=0, target_modules=["q_proj"]), "OFT: r = 2"),
        (LoHaConfig(r=3, target_modules=["q_proj"]), "LOHA: r = 3"),
    ],
    ids=range(6),
)
def test_sizes_are_those_that_the_method_reads(config: Any, size: str) -> None:
    facts = facts_of(get_peft_model(tiny_llama(), copy.deepcopy(config)))
    assert f"{facts.method}: {facts.size}".removesuffix(": ") == size


def test_the_reason_against_a_merge_is_the_methods_own() -> None:
    model = get_peft_model(tiny_llama(), LoHaConfig(r=3, target_modules=["q_proj"]))
    assert facts_of(model).merge_refusal is None
    next(each for each in model.parameters() if each.requires_grad).data.fill_(torch.nan)
    assert facts_of(model).merge_refusal.startswith("PEFT does not merge it (ValueError: NaNs")
    bottleneck = get_peft_model(tiny_llama(), BottleneckConfig(target_modules=["q_proj"]))
    assert facts_of(bottleneck).merge_refusal == "it is not a change of them"


def test_card_has_no_local_path(tmp_path: Path) -> None:
    model = get_peft_model(saved_base(tmp_path / "tiny-llama"), config_of("LORA2"))
    for folder in ("adapter", "again"):
        model.save_pretrained(tmp_path / folder)
    # PEFT writes the path again each time.
    model.save_pretrained(tmp_path / "adapter")
    for folder in ("adapter", "again"):
        card = card_of(tmp_path / folder)
        assert str(tmp_path) not in card.content
        assert card.data.base_model is None
        assert not any(tag.startswith("base_model") for tag in card.data.tags)
        assert "`tiny-llama`, a local folder" in card.text


def test_hub_model_is_named_and_linked(tmp_path: Path) -> None:
    base = tiny_llama()
    base.name_or_path = base.config._name_or_path = "owner/tiny"
    get_peft_model(base, config_of("LORA2")).save_pretrained(tmp_path, save_embedding_layers=False)
    card = card_of(tmp_path)
    assert card.data.base_model == "owner/tiny"
    assert "base_model:adapter:owner/tiny" in card.data.tags
    assert 'from_pretrained("owner/tiny")' in card.text


@pytest.mark.parametrize(
    ("location", "shown", "hub_id"),
    [
        ("bert-base-uncased", "bert-base-uncased", "bert-base-uncased"),
        ("microsoft/deberta-v3-base", "microsoft/deberta-v3-base", "microsoft/deberta-v3-base"),
        ("/home/me/models/mine", "mine", None),
        ("./mine/", "mine", None),
        ("../a/b/mine", "mine", None),
        ("~/mine", "mine", None),
        ("a/b/mine", "mine", None),
        ("C:\\models\\mine", "mine", None),
        (
            "/root/.cache/huggingface/hub/models--microsoft--deberta-v3-base/snapshots/8ccc9b6f",
            "microsoft/deberta-v3-base",
            "microsoft/deberta-v3-base",
        ),
        ("/x/lib/python3.11/site-packages/a_package/model", "a_package/model", None),
        ("/", "model", None),
    ],
)
def test_name_of_a_location(location: str, shown: str, hub_id: str | None) -> None:
    name = name_of_location(location)
    assert (name.shown, name.hub_id) == (shown, hub_id)
    assert (hub_id is None) == bool(name.place)


def test_folder_that_looks_like_a_hub_name_is_local(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/model").mkdir(parents=True)
    assert name_of_location("owner/model").hub_id is None


@pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")
@pytest.mark.parametrize("name", ["LORA2", "SORA"])
def test_code_of_the_card_loads_merges_and_exports(name: str, tmp_path: Path) -> None:
    model = get_peft_model(saved_base(tmp_path / "base"), config_of(name)).eval()
    disturb_any(model)
    model.save_pretrained(tmp_path / "adapter")
    load, leave = code_of(tmp_path)
    scope: dict[str, Any] = {}
    exec(load, scope)
    with torch.no_grad():
        expected = model(TOKENS).logits
        torch.testing.assert_close(scope["model"](TOKENS).logits, expected)
    for name in ("lora", "merged"):
        leave = leave.replace(f'"{name}"', repr(str(tmp_path / name)))
    for line in leave.splitlines():
        exec(load + line, scope)
    assert (tmp_path / "lora" / "README.md").is_file()
    assert (tmp_path / "merged" / "config.json").is_file()


def disturb_any(model: PeftModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)


def test_card_of_the_user_is_kept(tmp_path: Path) -> None:
    model = get_peft_model(saved_base(tmp_path / "base"), config_of("LORA2"))
    own = "---\nlicense: mit\n---\n\n# My adapter\n\nTrained on my data.\n"
    (tmp_path / "README.md").write_text(own)
    for _ in range(2):
        model.save_pretrained(tmp_path)
    card = card_of(tmp_path)
    assert card.data.license == "mit"
    assert card.text.count("Trained on my data.") == 1
    assert card.text.count("pip install lora2") == 1
    assert card.text.index("pip install lora2") < card.text.index("# My adapter")


def test_model_that_is_not_of_transformers_has_a_card(tmp_path: Path) -> None:
    get_peft_model(LINEAR.model(), LINEAR.config()).save_pretrained(tmp_path)
    card = card_of(tmp_path)
    assert "pip install lora2" in card.text
    assert "Mlp" in card.text


def test_cards_of_other_methods_are_those_of_peft(tmp_path: Path) -> None:
    model = get_peft_model(LINEAR.model(), LoraConfig(target_modules=["lin0"]))
    model.save_pretrained(tmp_path)
    assert "lora2" not in card_of(tmp_path).content


def test_exported_lora_says_that_peft_suffices(tmp_path: Path) -> None:
    model = get_peft_model(saved_base(tmp_path / "tiny-llama"), config_of("LORA2")).eval()
    disturb(model)
    export_lora(model, tmp_path / "lora")
    card = card_of(tmp_path / "lora")
    assert "PEFT alone loads it" in card.text
    assert "import lora2" not in card.text
    assert str(tmp_path) not in card.content
    assert "lora" in card.data.tags


def test_card_of_a_run_says_what_it_reached(finished_run: Path) -> None:
    card = card_of(finished_run / "adapter")
    assert str(finished_run.parent.parent) not in card.content
    assert card.data.pipeline_tag == "text-classification"
    for word in ("pip install lora2", "agreement", "accuracy", "num_labels=2", "lora2 predict RUN"):
        assert word in card.text
    assert re.search(r"\|best\|\d+\|[\d.]+\|", card.text)
    assert re.search(r"\|head alone, best\|\d+\|[\d.]+\|", card.text)


def test_card_of_a_run_of_lora_needs_peft_alone(tiny_model: Path, tmp_path: Path) -> None:
    assert train(tiny_model, tmp_path / "run", method="lora") == 0
    card = card_of(tmp_path / "run" / "adapter")
    assert "import lora2" not in card.text
    assert "More Information Needed" not in card.text
    assert str(tiny_model) not in card.content
    assert re.search(r"\|best\|\d+\|[\d.]+\|", card.text)


def test_card_of_an_export_on_the_command_line(finished_run: Path, tmp_path: Path) -> None:
    assert lora2("export", finished_run, "--output", tmp_path / "lora") == 0
    assert "PEFT alone loads it" in card_of(tmp_path / "lora").text


def test_error_without_lora2_is_the_one_that_the_card_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = get_peft_model(saved_base(tmp_path / "base"), config_of("LORA2"))
    model.save_pretrained(tmp_path / "adapter")
    # As in a process that has not imported lora2.
    for registered in (PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING):
        monkeypatch.delitem(registered, "LORA2")
    with pytest.raises(KeyError) as error:
        PeftModel.from_pretrained(tiny_llama(), tmp_path / "adapter")
    assert f"KeyError: {error.value}" in card_of(tmp_path / "adapter").text


@pytest.mark.parametrize("labels", [2, 3])
def test_code_for_images_replaces_the_head_of_the_base_model(labels: int, tmp_path: Path) -> None:
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, num_labels=5,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    base = ViTForImageClassification.from_pretrained(
        tmp_path / "base", num_labels=labels, ignore_mismatched_sizes=True
    )
    adapter = Lora2Config(target_modules=["q_proj"], modules_to_save=["classifier"], k=2)
    model = get_peft_model(base, adapter).eval()
    disturb_any(model)
    model.save_pretrained(tmp_path / "adapter")
    card = card_of(tmp_path / "adapter")
    scope: dict[str, Any] = {}
    exec(code_of(tmp_path)[0], scope)
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        found = scope["model"].eval()(pixels).logits
        torch.testing.assert_close(found, model(pixels).logits)
    assert found.shape == (2, labels)
    assert card.data.pipeline_tag == "image-classification"
