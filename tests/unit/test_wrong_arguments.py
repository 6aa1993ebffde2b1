"""Functions of the package that are given what is no model, path, batch or tokenizer."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

import lora2
from lora2 import Lora2Config, RankAllocator, UserError
from unit.tiny_transformers import tiny_llama

NO_MODEL = {
    "RankAllocator": lambda model: RankAllocator(model, 10),
    "compact_adapter": lora2.compact_adapter,
    "truncate_adapter": lambda model: lora2.truncate_adapter(model, rank=1),
    "start_from_gradients": lambda model: lora2.start_from_gradients(model, []),
    "weighted_penalty": lora2.weighted_penalty,
    "import_lora": lambda model: lora2.import_lora(model, "lora"),
    "loraplus_groups": lambda model: lora2.loraplus_groups(model, 1e-3, 16),
}
NAMED = {
    "RankAllocator": lambda model, name, path: RankAllocator(model, 10, name),
    "compact_adapter": lambda model, name, path: lora2.compact_adapter(model, name),
    "truncate_adapter": lambda model, name, path: lora2.truncate_adapter(model, name, rank=1),
    "start_from_gradients": lambda model, name, path: lora2.start_from_gradients(model, [], name),
    "export_lora": lambda model, name, path: lora2.export_lora(model, path, adapter_name=name),
    "export_gguf": lambda model, name, path: lora2.export_gguf(model, path, adapter_name=name),
    "GateThreshold": lambda model, name, path: lora2.GateThreshold(model, 10, name),
    "prune_gates": lambda model, name, path: lora2.prune_gates(model, name),
    "add_weighted_adapter": lambda model, name, path: model.add_weighted_adapter(
        ["default"], [1.0], name
    ),
}
EXPORTS = {
    "export_lora": lora2.export_lora,
    "export_merged": lora2.export_merged,
    "export_gguf": lora2.export_gguf,
}


def adapted() -> Any:
    return get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", k=2, init_r=2))


@pytest.mark.parametrize("name", NO_MODEL)
@pytest.mark.parametrize("model", [None, "tiny", {}], ids=["None", "text", "dict"])
def test_what_is_no_model_is_refused(name: str, model: Any) -> None:
    with pytest.raises(UserError, match=r"^model: .* is not a torch.nn.Module; "):
        NO_MODEL[name](model)


@pytest.mark.parametrize("function", NAMED)
@pytest.mark.parametrize("name", [["default"], {"default": 1}, None, 3])
def test_what_is_no_name_of_an_adapter_is_refused(function: str, name: Any, tmp_path: Path) -> None:
    model = adapted()
    with pytest.raises(UserError, match=rf"^adapter_name={re.escape(repr(name))} is "):
        NAMED[function](model, name, tmp_path / "out")
    assert list(model.peft_config) == ["default"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [["default"], None, 3, "a.b"])
def test_what_is_no_name_is_refused_before_a_lora_is_read(name: Any) -> None:
    with pytest.raises(UserError, match=rf"^adapter_name={re.escape(repr(name))} "):
        lora2.import_lora(tiny_llama(), "nowhere", adapter_name=name)


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.parametrize("path", [None, 3, b"x"], ids=["None", "number", "bytes"])
def test_what_is_no_path_is_refused(name: str, path: Any) -> None:
    with pytest.raises(UserError, match=r"^path=.* is a \w+; give a text or a pathlib\.Path"):
        EXPORTS[name](adapted(), path)


@pytest.mark.parametrize("name", EXPORTS)
def test_a_place_that_is_taken_is_named_as_the_argument_is(name: str, tmp_path: Path) -> None:
    taken, below = tmp_path / "taken", tmp_path / "file" / "below"
    taken.mkdir()
    (taken / "kept.txt").write_text("kept")
    (tmp_path / "file").write_text("")
    for path, said in ((taken, "exists already"), (below, "cannot be made")):
        with pytest.raises(UserError, match=rf"^path: .*{said}"):
            EXPORTS[name](adapted(), path)
    assert (taken / "kept.txt").read_text() == "kept"


def test_an_adapter_to_import_needs_a_path() -> None:
    with pytest.raises(UserError, match="path=None is a NoneType"):
        lora2.import_lora(tiny_llama(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EXPORTS)
def test_what_is_no_batch_is_refused_before_the_model_is_changed(name: str, tmp_path: Path) -> None:
    model = adapted()
    with pytest.raises(UserError, match="batch: a int is no input of a model"):
        EXPORTS[name](model, tmp_path / "out", batch=3)
    assert any("lora2_" in each for each, _ in model.named_parameters())


@pytest.mark.parametrize("name", ["export_lora", "export_merged"])
def test_the_name_of_a_tokenizer_is_refused_before_the_model_is_changed(
    name: str, tmp_path: Path
) -> None:
    model = adapted()
    with pytest.raises(UserError, match="tokenizer='name' is a str and cannot be saved"):
        EXPORTS[name](model, tmp_path / "out", tokenizer="name")
    assert any("lora2_" in each for each, _ in model.named_parameters())
    assert torch.isfinite(model(input_ids=torch.arange(6)[None] + 3).logits).all()
    assert not (tmp_path / "out").exists()
