"""PEFT's and transformers' own ways to load, add and convert an adapter; and registration."""

import hashlib
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    convert_to_lora,
    get_peft_model,
    set_peft_model_state_dict,
)
from torch import nn

from lora2 import Lora2Config, Lora2Model, RankAllocator, compact_adapter
from lora2.tuners.base.registration import register
from unit.models import KINDS, LINEAR, Kind, adapter_state, disturb, layers_of, prune_half, rows
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama
from upstream import ADAPTERS_OF_TRANSFORMERS, ADDED_BY_TRANSFORMERS


def bert_config(**fields: object) -> Lora2Config:
    return Lora2Config(**({"task_type": "SEQ_CLS", "k": 2, "init_r": 4} | fields))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path, torch.Tensor]:
    """Folders of a base model and of its adapter, and the logits that both give together."""
    base = tiny_bert()
    base.save_pretrained(tmp_path / "base")
    loaded = type(base).from_pretrained(tmp_path / "base")
    model = get_peft_model(loaded, bert_config(modules_to_save=["classifier"])).eval()
    disturb(model)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "base", tmp_path / "adapter", model(**bert_batch()).logits


def test_config_comes_back_as_it_was(tmp_path: Path) -> None:
    config = bert_config(
        target_r=1.5,
        target_modules=["query"],
        exclude_modules=["key"],
        k_pattern={"query": 3},
        rank_pattern={"query": 0},
        orthogonality="penalty",
        orthogonality_terms="P&Q",
        deltaT=0.1,
        tinit=3,
        init_weights="gaussian",
    )
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is Lora2Config
    assert loaded.to_dict() == config.to_dict()
    assert Lora2Config.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_auto_class_loads_base_model_and_adapter(saved: tuple) -> None:
    _, adapter, logits = saved
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter)
    assert isinstance(model, PeftModel)
    assert torch.equal(model.eval()(**bert_batch()).logits, logits)


def test_auto_class_loads_a_causal_language_model(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")
    base = type(tiny_llama()).from_pretrained(tmp_path / "base")
    model = get_peft_model(base, Lora2Config(task_type="CAUSAL_LM", k=2)).eval()
    disturb(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    input_ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_adapter_of_a_classifier_is_found_by_transformers_itself(saved: tuple) -> None:
    base, adapter, logits = saved
    model = type(tiny_bert()).from_pretrained(base)
    model.load_adapter(adapter)
    assert torch.equal(model.eval()(**bert_batch()).logits, logits)


@ADAPTERS_OF_TRANSFORMERS
def test_transformers_adds_enables_disables_and_saves_an_adapter(tmp_path: Path) -> None:
    batch = bert_batch()
    model = tiny_bert()
    plain = model(**batch).logits
    model.add_adapter(bert_config(), adapter_name="mine")
    assert torch.equal(model(**batch).logits, plain)
    disturb(model, "mine")
    changed = model(**batch).logits
    assert not torch.allclose(changed, plain, atol=1e-3)
    model.disable_adapters()
    assert torch.equal(model(**batch).logits, plain)
    model.enable_adapters()
    assert torch.equal(model(**batch).logits, changed)
    model.save_pretrained(tmp_path)
    again = tiny_bert()
    again.load_adapter(tmp_path, adapter_name="mine")
    saved, loaded = adapter_state(model, "mine"), adapter_state(again, "mine")
    assert all(torch.equal(loaded[key], tensor) for key, tensor in saved.items())
    # The tensors lie in memory as they did in the file, where they are not aligned.
    torch.testing.assert_close(again.eval()(**batch).logits, changed, atol=2e-6, rtol=2e-6)
    again.delete_adapter("mine")
    assert torch.equal(again(**batch).logits, plain)


def untasked(**fields: object) -> Lora2Config:
    """Without a task: PEFT would save and expect the classifier too, transformers would not."""
    return bert_config(task_type=None, **fields)


def finished(model: nn.Module) -> nn.Module:
    """The model after a schedule that is over: half of the singular values are gone."""
    disturb(model)
    prune_half(model)
    for index, layer in enumerate(layers_of(model).values()):
        with torch.no_grad():
            if index % 3 == 0:
                layer.parameters_of("default")["lam"].zero_()
        layer.lora2_states["default"].is_finished = True
    return model.eval()


@pytest.mark.parametrize("in_memory", [True, False], ids=["compact_in_memory", "compact_on_saving"])
@pytest.mark.parametrize("written_by", ["peft", ADDED_BY_TRANSFORMERS])
@pytest.mark.parametrize("read_by", ["peft", "transformers", "low_cpu_mem_usage", "load_adapter"])
def test_compact_adapter_loads_everywhere(
    written_by: str, read_by: str, in_memory: bool, tmp_path: Path
) -> None:
    batch = bert_batch()
    if written_by == "peft":
        model = get_peft_model(tiny_bert(), untasked())
    else:
        model = tiny_bert()
        model.add_adapter(untasked())
    finished(model)
    expected = model(**batch).logits
    if in_memory:
        compact_adapter(model)
    model.save_pretrained(tmp_path)
    if read_by == "transformers":
        loaded = tiny_bert()
        loaded.load_adapter(tmp_path)
    else:
        loaded = PeftModel.from_pretrained(
            tiny_bert(), tmp_path, low_cpu_mem_usage=read_by == "low_cpu_mem_usage"
        )
    if read_by == "load_adapter":
        loaded.load_adapter(tmp_path, "again")
        loaded.set_adapter("again")
    loaded.eval()
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-6, rtol=1e-5)
    ranks = {len(tensor) for name, tensor in loaded.named_parameters() if "lora2_lambda" in name}
    assert ranks == {0, 2}


# Conversion to LoRA


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name.startswith("linear")])
@pytest.mark.parametrize("form", ["exact", "penalty", "k_above_r", "pruned"])
def test_conversion_to_lora_loses_nothing(kind: Kind, form: str) -> None:
    model = get_peft_model(kind.model(), kind.config(form)).eval()
    disturb(model)
    width = max(layer.lora2_v["default"].shape[0] for layer in layers_of(model).values())
    assert model.supports_lora_conversion()
    # lin1 has two outputs, hence no LoRA of a higher rank.
    rank = min(width, *(min(layer.matrix_shape()) for layer in layers_of(model).values()))
    config, state = convert_to_lora(model, rank=rank, progressbar=False)
    lora = get_peft_model(kind.model(), config).eval()
    assert isinstance(config, LoraConfig)
    set_peft_model_state_dict(lora, state)
    x = kind.inputs()
    if rank == width:
        torch.testing.assert_close(lora(x), model(x), atol=1e-5, rtol=1e-5)
    config, state = convert_to_lora(model, rank=1.0, progressbar=False)
    lora = get_peft_model(kind.model(), config).eval()
    set_peft_model_state_dict(lora, state)
    torch.testing.assert_close(lora(x), model(x), atol=1e-5, rtol=1e-5)


# Registration


def test_peft_knows_the_method() -> None:
    member = PeftType["LORA2"]
    assert PeftType("LORA2") is member
    assert member == "LORA2"
    assert member in list(PeftType)
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[member] is Lora2Config
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[member] is Lora2Model
    assert peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[member] == "lora2_"


def test_registration_happens_once() -> None:
    before = list(PeftType), dict(peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING)
    register("lora2", Lora2Config, Lora2Model)
    assert (list(PeftType), dict(peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING)) == before


def test_registration_steps_aside_for_a_peft_that_knows_the_method() -> None:
    class Other:
        pass

    register("lora2", Other, Other)
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[PeftType["LORA2"]] is Lora2Model


def run_python(code: str, *arguments: object) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_another_process_imports_lora2_and_loads_the_adapter(saved: tuple) -> None:
    """Importing is all that is needed, and it writes nothing into PEFT's folder."""
    _, adapter, logits = saved
    folder = Path(peft.__file__).parent

    def digest() -> str:
        files = sorted(folder.rglob("*.py"))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    before = digest()
    code = """
import sys, torch, lora2
from peft import AutoPeftModelForSequenceClassification, PeftConfig
config = PeftConfig.from_pretrained(sys.argv[1])
assert type(config) is lora2.Lora2Config, type(config)
model = AutoPeftModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
print(model(torch.tensor([[5, 6, 7]])).logits.tolist()[0])
"""
    printed = run_python(code, adapter)
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter).eval()
    assert printed.strip() == str(model(torch.tensor([[5, 6, 7]])).logits.tolist()[0])
    assert digest() == before
    assert logits.shape == (4, 2)


def test_module_of_rank_zero_computes_the_base_output() -> None:
    model = get_peft_model(LINEAR.model(), LINEAR.config(rank_pattern={"lin0": 0, "lin1": 0}))
    assert torch.equal(model.eval()(rows()), LINEAR.model()(rows()))
    model.merge_adapter()
    assert torch.equal(model(rows()), LINEAR.model()(rows()))


def test_several_adapters_have_their_own_allocators() -> None:
    fields = {"init_r": 4, "target_r": 2, "tinit": 0, "tfinal": 1}
    model = get_peft_model(LINEAR.model(), LINEAR.config(**fields))
    model.add_adapter("other", LINEAR.config(**(fields | {"target_r": 1})))
    model.base_model.set_adapter(["default", "other"])
    allocators = {name: RankAllocator(model, 3, name) for name in ("default", "other")}
    for _ in range(3):
        model(rows()).square().mean().backward()
        for allocator in allocators.values():
            allocator.step()
    assert {name: allocator.kept for name, allocator in allocators.items()} == {
        "default": 4,
        "other": 2,
    }
