"""An adapter in GGUF has llama.cpp's names, shapes and order of rows."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import get_peft_model

from lora2 import Lora2Config, UserError, export_gguf
from lora2.exchange.gguf import interleave, separate
from unit.models import disturb, prune_half
from unit.tiny_transformers import tiny_bert, tiny_llama

HEADS = {"attn_q": 2, "attn_k": 1}


def adapted(**fields):
    config = Lora2Config(task_type="CAUSAL_LM", k=3, init_r=4, lora_alpha=16.0, **fields)
    model = get_peft_model(tiny_llama(), config).eval()
    disturb(model)
    prune_half(model)
    return model


def reordered(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row 2 j + half of a head in llama.cpp is row half · n + j of it in transformers."""
    n = len(weight) // heads // 2
    order = [h * 2 * n + half * n + j for h in range(heads) for j in range(n) for half in (0, 1)]
    return weight[order]


def test_file_holds_the_change_of_every_matrix(tmp_path: Path) -> None:
    model = adapted()
    export = export_gguf(model, tmp_path / "adapter.gguf")
    assert export.difference < 1e-5
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == export.rank == 2
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    assert len(tensors) == 2 * 2 * len(names)
    for block, layer in enumerate(model.get_base_model().model.layers):
        for name, module in names.items():
            delta = layer.get_submodule(module).get_delta_weight("default").detach().numpy()
            if name in HEADS:
                delta = reordered(delta, HEADS[name])
            A, B = (tensors[f"blk.{block}.{name}.weight.lora_{part}"] for part in "ab")
            assert A.shape == (2, delta.shape[1])
            np.testing.assert_allclose(B @ A, delta, rtol=1e-4, atol=1e-5)


def test_reordering_is_undone() -> None:
    rows = torch.arange(24.0).view(12, 2)
    assert torch.equal(separate(interleave(rows, 2), 2), rows)
    np.testing.assert_array_equal(interleave(rows, 2).numpy(), reordered(rows.numpy(), 2))


@pytest.mark.parametrize("broken", ["write", "differ"])
def test_failed_export_leaves_nothing(broken: str, tmp_path: Path, monkeypatch) -> None:
    if broken == "write":

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("gguf.GGUFWriter.write_tensors_to_file", full)
    else:
        monkeypatch.setattr("lora2.exchange.gguf.interleave", lambda rows, heads: rows)
    with pytest.raises((OSError, UserError), match=r"No space|not kept"):
        export_gguf(adapted(), tmp_path / "adapter.gguf")
    assert not list(tmp_path.iterdir())


def test_what_llama_cpp_has_no_place_for_is_refused(tmp_path: Path) -> None:
    bert = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS", k=2))
    with pytest.raises(UserError, match="not for bert"):
        export_gguf(bert, tmp_path / "adapter.gguf")
    with pytest.raises(UserError, match=r"no place for .*embed_tokens"):
        export_gguf(adapted(target_modules=["embed_tokens"]), tmp_path / "adapter.gguf")
    (tmp_path / "there.gguf").touch()
    with pytest.raises(UserError, match="exists already"):
        export_gguf(adapted(), tmp_path / "there.gguf")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_the_output_of_a_tied_model_is_refused(tmp_path: Path) -> None:
    model = adapted(target_modules=["q_proj", "lm_head"])
    assert export_gguf(model, tmp_path / "untied.gguf").path.is_file()
    tied = tiny_llama(tie_word_embeddings=True)
    config = Lora2Config(target_modules=["q_proj", "lm_head"], k=2, init_weights=False)
    model = get_peft_model(tied, config)
    with pytest.raises(UserError, match="changes lm_head, whose weight is that of the input"):
        export_gguf(model, tmp_path / "tied.gguf")


def test_a_file_that_a_full_disk_has_cut_short_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = gguf.GGUFWriter.close

    def close(self: gguf.GGUFWriter) -> None:
        original(self)
        (written,) = tmp_path.iterdir()
        os.truncate(written, written.stat().st_size - 4096)

    monkeypatch.setattr(gguf.GGUFWriter, "close", close)
    with pytest.raises(OSError, match="No space left on device"):
        export_gguf(adapted(), tmp_path / "adapter.gguf")
    assert not list(tmp_path.iterdir())
