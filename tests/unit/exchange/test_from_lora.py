"""A trained LoRA or AdaLoRA becomes a LoRA² adapter that computes the same and can be pruned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, KasaConfig, LoraConfig, PeftModel, get_peft_model

from lora2 import Lora2Config, RankAllocator, UserError, import_lora, truncate_adapter
from lora2.exchange.from_lora import _HARMLESS
from unit.models import ATTENTION, LINEAR, ConvolutionModel, Kind, layers_of, rows
from unit.models import KINDS as ALL_KINDS
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama


class Outer(torch.nn.Module):
    """A linear layer, and another whose name ends in the first one's."""

    def __init__(self, inner: torch.nn.ModuleDict) -> None:
        super().__init__()
        self.lin, self.inner = torch.nn.Linear(6, 6), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner["lin"](torch.tanh(self.lin(x)))


IMPORTED = ("linear", "conv1d", "embedding", "conv2d", "conv1d_of_torch", "conv3d")
KINDS = tuple(kind for kind in ALL_KINDS if kind.name in IMPORTED)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() < 1e-6 * max(1.0, float(expected.abs().max())))


def taught(base: Any, config: Any, folder: Path) -> PeftModel:
    """A saved adapter with random tensors, on its base model."""
    torch.manual_seed(3)
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    return model


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, {"rank_pattern": {".*": 2}}])
def test_imported_lora_computes_the_same(kind: Kind, fields: dict, tmp_path: Path) -> None:
    config = LoraConfig(r=3, lora_alpha=5, target_modules=kind.target_modules, **fields)
    source, x = taught(kind.model(), config, tmp_path), kind.inputs()
    imported = import_lora(kind.model(), tmp_path).eval()
    assert same(imported(x), source(x))
    assert not same(imported(x), kind.model()(x))
    imported.save_pretrained(str(tmp_path / "again"))
    reloaded = PeftModel.from_pretrained(kind.model(), tmp_path / "again").eval()
    assert torch.equal(reloaded(x), imported(x))


@torch.no_grad()
def test_imported_adalora_computes_the_same(tmp_path: Path) -> None:
    config = AdaLoraConfig(init_r=4, target_r=2, target_modules=["lin0", "lin1"], total_step=10)
    source = taught(LINEAR.model(), config, tmp_path)
    imported = import_lora(LINEAR.model(), tmp_path).eval()
    assert same(imported(rows()), source(rows()))


@torch.no_grad()
@pytest.mark.filterwarnings(
    "ignore:Adapter 'default'. 2 LoRA tensor:peft.utils.warning.PeftWarning"
)
def test_a_matrix_that_adalora_has_emptied_counts_as_one_and_stays_empty(tmp_path: Path) -> None:
    config = AdaLoraConfig(init_r=4, target_r=2, target_modules=["lin0", "lin1"], total_step=10)
    source = taught(LINEAR.model(), config, tmp_path)
    source.peft_config["default"].rank_pattern = {
        f"{name}.lora_E.default": [name == "lin1"] * 4 for name in ("lin0", "lin1")
    }
    source.save_pretrained(str(tmp_path))
    imported = import_lora(LINEAR.model(), tmp_path).eval()
    sizes = {name: layer.sizes_of("default")[1] for name, layer in layers_of(imported).items()}
    kept = {"base_model.model.lin0": 0, "base_model.model.lin1": 2}
    assert sizes == kept
    # Two on average of one each.
    assert truncate_adapter(imported, rank=1).ranks == kept


@torch.no_grad()
def test_head_is_imported_too(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    source = taught(tiny_bert(), config, tmp_path)
    imported = import_lora(tiny_bert(), tmp_path).eval()
    batch = {name: tensor for name, tensor in bert_batch().items() if name != "labels"}
    assert same(imported(**batch).logits, source(**batch).logits)


def test_imported_adapter_can_be_pruned_and_trained_on(tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    taught(tiny_llama(), config, tmp_path)
    model = import_lora(tiny_llama(), tmp_path, target_r=2, tinit=1, tfinal=1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    allocator = RankAllocator(model, total_steps=6)
    tokens = torch.arange(16).view(2, 8) + 3
    losses = []
    for _ in range(6):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    kept = sum(
        int((layer.lora2_lambda["default"] != 0).sum()) for layer in layers_of(model).values()
    )
    assert kept == 2 * len(layers_of(model))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_lora_saved_with_the_weight_of_its_embedding_is_imported(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    model = taught(tiny_llama(), config, tmp_path)
    tokens = torch.arange(3, 11).view(1, 8)
    found = import_lora(tiny_llama(), tmp_path).eval()
    assert same(found(tokens).logits, model(tokens).logits)


def test_a_field_that_the_adapter_decides_is_refused(tmp_path: Path) -> None:
    get_peft_model(tiny_llama(), LoraConfig(r=2)).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"init_r, k: the adapter in .* decides"):
        import_lora(tiny_llama(), tmp_path, k=4, init_r=4)


def test_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(tiny_llama(num_hidden_layers=3), config).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="another base model"):
        import_lora(tiny_llama(), tmp_path)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_convolution_that_peft_computes_otherwise_is_refused(options, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["conv"])
    get_peft_model(ConvolutionModel(**options), config).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="leave it out"):
        import_lora(ConvolutionModel(**options), tmp_path)


def test_attention_whose_out_proj_peft_changes_twice_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["attn"])
    get_peft_model(ATTENTION.model(), config).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"attn is an nn.MultiheadAttention, .* change twice"):
        import_lora(ATTENTION.model(), tmp_path)


@torch.no_grad()
def test_names_that_end_alike_are_not_confused(tmp_path: Path) -> None:
    def base() -> torch.nn.Module:
        torch.manual_seed(0)
        inner = torch.nn.ModuleDict({"lin": torch.nn.Linear(6, 6)})
        return Outer(inner)

    source = taught(base(), LoraConfig(r=2, target_modules="lin"), tmp_path)
    imported = import_lora(base(), tmp_path).eval()
    assert same(imported(rows()), source(rows()))
    assert {n for n, m in imported.named_modules() if hasattr(m, "lora2_V")} == {
        "base_model.model.lin"
    }


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (LoraConfig(r=2, target_modules=["lin0"], use_dora=True), "use_dora=True"),
        (LoraConfig(r=2, target_modules=["lin0"], bias="all"), "bias='all'"),
        (LoraConfig(r=2, target_modules=["lin0"], init_lora_weights="pissa"), "'pissa'"),
        (LoraConfig(r=2, target_modules=["lin0"], init_lora_weights="olora"), "'olora'"),
        (IA3Config(target_modules=["lin0"], feedforward_modules=[]), "IA3"),
    ],
)
def test_what_lora2_has_not_is_refused(config, sentence: str, tmp_path: Path) -> None:
    get_peft_model(LINEAR.model(), config).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=sentence):
        import_lora(LINEAR.model(), tmp_path)


def test_a_lora_with_a_diagonal_of_its_own_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["lin0"], r=2, kasa_config=KasaConfig())
    taught(LINEAR.model(), config, tmp_path)

    with pytest.raises(UserError, match=r"kasa_config=.* LoRA² has no such part"):
        import_lora(LINEAR.model(), tmp_path)


def test_a_field_that_is_not_known_is_refused_unless_it_is_empty(
    tmp_path: Path, monkeypatch
) -> None:
    """The next version of PEFT may have a part that nobody here has heard of."""
    monkeypatch.setattr("lora2.exchange.from_lora._HARMLESS", _HARMLESS - {"use_rslora"})
    for value in (False, True):
        folder = tmp_path / str(value)
        taught(LINEAR.model(), LoraConfig(target_modules=["lin0"], r=2, use_rslora=value), folder)
    import_lora(LINEAR.model(), tmp_path / "False")
    with pytest.raises(UserError, match="use_rslora=True"):
        import_lora(LINEAR.model(), tmp_path / "True")


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_whole_modules_that_peft_ties_are_refused(module: str, tmp_path: Path) -> None:
    config = LoraConfig(
        target_modules=["q_proj"], modules_to_save=[module], ensure_weight_tying=True
    )
    taught(tiny_llama(tie_word_embeddings=True), config, tmp_path)

    with pytest.raises(UserError, match=r"ensure_weight_tying=True in .* is tied to one of"):
        import_lora(tiny_llama(tie_word_embeddings=True), tmp_path)


def test_modules_that_peft_trains_by_the_end_of_their_name_are_imported(tmp_path: Path) -> None:
    """ "head" means lm_head too, which no one has tied."""
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["head"])
    tokens = torch.arange(6)[None]
    expected = taught(tiny_llama(), config, tmp_path)(tokens).logits.detach()
    found = import_lora(tiny_llama(), tmp_path).eval()(tokens).logits.detach()
    assert same(found, expected)


def test_a_model_that_has_adapters_is_refused(tmp_path: Path) -> None:
    get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    model = get_peft_model(tiny_llama(), Lora2Config(target_modules=["q_proj"]))
    with pytest.raises(UserError, match="model: it has adapters already"):
        import_lora(model, tmp_path, adapter_name="b")
