"""What cannot be exported as a LoRA, or would compute something else as one, is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

import lora2
from lora2 import Lora2Config, UserError, export_lora
from lora2.errors import NumericalError
from unit.kind_case import adapted
from unit.models import CONV2D, KINDS, LINEAR, ConvolutionModel, Kind, disturb, rows
from unit.tiny_transformers import tiny_llama
from upstream import ADAPTERS_OF_TRANSFORMERS


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8, None])
def test_a_dtype_that_a_lora_cannot_have_is_refused(dtype: object, tmp_path: Path) -> None:
    model = get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", k=3))
    with pytest.raises(UserError, match=f"dtype={dtype!r}: write one of .*torch.bfloat16"):
        export_lora(model, tmp_path / "lora", dtype=dtype)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["lora_B", "lora_A"])
def test_wrong_change_is_noticed_where_logits_hide_it(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision an effect may be smaller than what rounding may differ by."""
    right = lora2.exchange.lora.lora_form

    def wrong(*arguments, **options):
        form = right(*arguments, **options)
        next(t for name, t in form.tensors.items() if broken in name).mul_(1.01)
        return form

    monkeypatch.setattr("lora2.exchange.lora.lora_form", wrong)
    model = get_peft_model(tiny_llama().bfloat16(), Lora2Config(task_type="CAUSAL_LM", k=3))
    disturb(model)
    with pytest.raises(UserError, match="otherwise than the adapter does"):
        export_lora(model, tmp_path / "lora")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("factor", ["lora2_v", "lora2_V"])
def test_adapter_with_nan_is_refused(factor: str, tmp_path: Path) -> None:
    model = adapted(LINEAR)
    with torch.no_grad():
        getattr(model.get_base_model().lin1, factor)["default"][0, 0] = torch.nan
    with pytest.raises(NumericalError, match="lin1"):
        export_lora(model, tmp_path / "lora", batch=rows())


@ADAPTERS_OF_TRANSFORMERS
def test_a_model_without_peft_around_it_is_refused(tmp_path: Path) -> None:
    model = tiny_llama()
    model.add_adapter(Lora2Config(k=2))
    with pytest.raises(UserError, match="no PeftModel"):
        export_lora(model, tmp_path / "lora")


@pytest.mark.parametrize("export", [lora2.export_lora, lora2.export_gguf, lora2.export_merged])
def test_parts_that_were_compiled_are_named(export: Callable[..., object], tmp_path: Path) -> None:
    model = get_peft_model(tiny_llama(), Lora2Config(k=2, init_r=2))
    model.get_base_model().model.layers[1].compile()
    layers = model.get_base_model().model.layers
    layers[0] = torch.compile(layers[0])
    with pytest.raises(UserError, match=r"put base_model.model.model.layers.0._orig_mod in its"):
        export(model, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"dilation": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_convolution_that_peft_computes_otherwise_is_refused(options, tmp_path: Path) -> None:
    kind = Kind("conv", lambda: ConvolutionModel(**options), CONV2D.inputs, ["conv"])
    with pytest.raises(UserError, match="merged model instead"):
        export_lora(adapted(kind), tmp_path / "lora", batch=kind.inputs())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("attention", "out_proj twice .* a LoRA of attn .* merged model instead"),
        ("attention_batch_first", "out_proj twice .* a LoRA of attn .* merged model instead"),
        ("attention_three_weights", "kdim=4 or vdim=5 .*embed_dim=6; export the merged model"),
        ("conv2d_normalizing", "A NormalizingConv2d has a forward of its own"),
    ],
)
def test_kind_that_peft_computes_otherwise_is_refused(
    name: str, sentence: str, tmp_path: Path
) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == name)
    with pytest.raises(UserError, match=sentence):
        export_lora(adapted(kind), tmp_path / "lora", batch=kind.inputs())
    assert not list(tmp_path.iterdir())


class _PaddedAlways(nn.Conv2d):
    """Pads by the same number whatever its kernel is, so that PEFT's B pads once more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (2, 0)))


class _WithSizesOfItsOwn(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, size)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (_PaddedAlways, "A _PaddedAlways has a forward of its own"),
        (_WithSizesOfItsOwn, "PEFT's LoRA cannot be put on a ConvolutionModel"),
    ],
)
def test_convolution_on_which_pefts_lora_fails_is_refused_in_one_sentence(
    layer: type[nn.Conv2d], sentence: str, tmp_path: Path
) -> None:
    kind = Kind("conv", lambda: ConvolutionModel(layer), CONV2D.inputs, ["conv"])
    with pytest.raises(UserError, match=sentence) as raised:
        export_lora(adapted(kind), tmp_path / "lora", batch=kind.inputs())
    assert "merged model" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_what_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    right = lora2.exchange.lora.lora_form

    def wrong(*arguments, **options):
        form = right(*arguments, **options)
        next(iter(form.tensors.values())).mul_(1.01)
        return form

    monkeypatch.setattr("lora2.exchange.lora.lora_form", wrong)
    with pytest.raises(UserError, match="not kept"):
        export_lora(adapted(LINEAR), tmp_path / "lora", batch=rows())
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft.LoraConfig.save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        export_lora(adapted(LINEAR), tmp_path / "lora", batch=rows())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"adapter_name": "missing"}, "does not exist"),
        ({"batch": None}, "a Mlp takes .* pass inputs"),
        ({"path": "."}, "exists already"),
    ],
)
def test_impossible_export_is_refused(options, sentence, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("something").touch()
    arguments = {"path": "lora", "batch": rows()} | options
    with pytest.raises(UserError, match=sentence):
        export_lora(adapted(LINEAR), **arguments)


def test_merged_adapter_is_refused(tmp_path: Path) -> None:
    model = adapted(LINEAR)
    model.merge_adapter()
    with pytest.raises(UserError, match="unmerge"):
        export_lora(model, tmp_path / "lora", batch=rows())


def test_an_adapter_that_is_no_low_rank_change_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(LINEAR.model(), LoraConfig(target_modules=["lin0"], r=2))
    with pytest.raises(UserError, match="LORA"):
        export_lora(model, tmp_path / "lora", batch=rows())


def test_another_adapter_that_is_merged_is_named_and_the_weights_stay(tmp_path: Path) -> None:
    config = {"k": 2, "init_r": 2, "init_weights": False}
    model = get_peft_model(tiny_llama(), Lora2Config(target_modules=["q_proj"], **config), "first")
    model.add_adapter("second", Lora2Config(target_modules=["v_proj"], **config))
    model.set_adapter("first")
    model.merge_adapter(["first"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="adapter 'first' is merged: unmerge it before the export"):
        export_lora(model, tmp_path / "lora", adapter_name="second")
    assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items())


@pytest.mark.parametrize("export", [lora2.export_lora, lora2.export_gguf, lora2.export_merged])
def test_a_model_that_is_split_over_processes_is_not_exported(
    export: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora2.exchange.export_arguments.is_sharded", lambda tensor: True)
    model = get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", k=3))
    with pytest.raises(UserError, match="are split over several processes; call save_pretrained"):
        export(model, tmp_path / "exported")
    assert not any(tmp_path.iterdir())
