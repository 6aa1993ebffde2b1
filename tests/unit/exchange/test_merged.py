"""A merged checkpoint needs no adapter and computes what the adapter did."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM

from command_line import save_tiny_model
from lora2 import Lora2Config, UserError, export_gguf, export_lora, export_merged
from lora2.errors import MergedWeightError, NumericalError
from unit.models import Mlp, difference, disturb, layers_of, prune_half, rows
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama, tiny_roberta

pytestmark = pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")

TOKENS = torch.arange(12).view(2, 6) + 3
MODELS = {
    "bert": (tiny_bert, "SEQ_CLS"),
    "roberta": (tiny_roberta, "SEQ_CLS"),
    "llama": (tiny_llama, "CAUSAL_LM"),
}


def adapted(name: str = "llama", **fields):
    make, task = MODELS[name]
    config = Lora2Config(task_type=task, k=3, init_r=4, lora_alpha=16.0, **fields)
    model = get_peft_model(make(), config).eval()
    disturb(model)
    prune_half(model)
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merged_checkpoint_equals_the_adapter(
    name: str, dtype: torch.dtype, limit: float, tmp_path: Path
) -> None:
    model = adapted(name)
    batch = {key: tensor for key, tensor in bert_batch().items() if key != "labels"}
    with torch.no_grad():
        # In float32 the adapter itself rounds to about 1e-5, on some processors to more than the
        # merged model does.
        expected = copy.deepcopy(model).double()(**batch).logits
    export = export_merged(model.to(dtype), tmp_path / "merged")
    kind = type(MODELS[name][0]())
    reloaded = kind.from_pretrained(tmp_path / "merged", dtype=dtype).eval()
    with torch.no_grad():
        assert difference(reloaded(**batch).logits, expected) < limit
        assert torch.equal(reloaded(**batch).logits, export.model(**batch).logits)
    assert export.difference < 2 * limit
    assert not [key for key, _ in reloaded.named_parameters() if "lora2" in key]


def test_checkpoint_is_sharded_and_has_its_generation_config(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lora2.exchange.merged._SMALLEST_SHARD", 1)
    model = adapted()
    model.generation_config.max_new_tokens = 7
    export = export_merged(model, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors.index.json"} <= names
    assert len([name for name in names if name.endswith(".safetensors")]) > 5
    assert export.model.generation_config.max_new_tokens == 7


def test_half_precision_stays_what_it_is(tmp_path: Path) -> None:
    model = adapted().to(torch.bfloat16)
    export = export_merged(model, tmp_path / "merged")
    assert export.model.dtype == torch.bfloat16


# PEFT's word that merging may be wrong, which is tested here, and that the two are tied no longer.
@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
@pytest.mark.parametrize("tied", [False, True])
def test_embedding_that_the_head_shares_is_merged_alone(tied: bool, tmp_path: Path) -> None:
    fields = {"target_modules": ["embed_tokens", "q_proj"], "k": 3}
    model = get_peft_model(
        tiny_llama(tie_word_embeddings=tied), Lora2Config(task_type="CAUSAL_LM", **fields)
    ).eval()
    disturb(model)
    with torch.no_grad():
        expected = model(TOKENS).logits
        model.merge_adapter()
        assert difference(model(TOKENS).logits, expected) < 1e-5
        model.unmerge_adapter()
        assert difference(model(TOKENS).logits, expected) < 1e-5
        export_merged(model, tmp_path / "merged")
        reloaded = LlamaForCausalLM.from_pretrained(tmp_path / "merged").eval()
        assert difference(reloaded(TOKENS).logits, expected) < 1e-5


def peft_lora():
    config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    return get_peft_model(tiny_llama(), config).eval()


@pytest.mark.parametrize("make", [adapted, peft_lora])
def test_model_is_unmerged_where_merged_logits_differ(make, tmp_path: Path, monkeypatch) -> None:
    model = make()
    with torch.no_grad():
        expected = model(TOKENS).logits
        monkeypatch.setattr("lora2.exchange.merged.tolerance_of", lambda model: -1.0)
        with pytest.raises(UserError, match="not kept"):
            export_merged(model, tmp_path / "merged")
        # A merged model would compute the same.
        assert not any(
            layer.merged for layer in model.modules() if isinstance(layer, BaseTunerLayer)
        )
        assert difference(model(TOKENS).logits, expected) < 1e-5
    assert not list(tmp_path.iterdir())


def test_model_is_unmerged_where_a_later_layer_holds_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted()
    layers = list(layers_of(model).values())
    with torch.no_grad():
        layers[-1].lora2_V["default"][0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"in the output of .*down_proj"):
        export_merged(model, tmp_path / "merged")
    assert not any(layer.merged for layer in layers)
    # Of logits that hide it, as those of a half-precision model may.
    monkeypatch.setattr("lora2.exchange.verification.check_finite_output", lambda *arguments: None)
    with pytest.raises(MergedWeightError, match=r"in the merged weight of .*down_proj"):
        export_merged(model, tmp_path / "merged")
    assert not any(layer.merged for layer in layers)
    assert list(tmp_path.iterdir()) == []


def test_model_that_transformers_does_not_save_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(Mlp(), Lora2Config(target_modules=["lin0"]))
    with pytest.raises(UserError, match="no model of transformers"):
        export_merged(model, tmp_path / "merged", batch=rows())


@pytest.mark.parametrize("broken", ["save", "differ"])
def test_failed_export_leaves_nothing(broken: str, tmp_path: Path, monkeypatch) -> None:
    if broken == "save":

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    else:
        monkeypatch.setattr("lora2.exchange.merged.tolerance_of", lambda model: -1.0)
    with pytest.raises((OSError, UserError), match=r"No space|not kept"):
        export_merged(adapted(), tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(UserError, match="exists already"):
        export_merged(adapted(), tmp_path)


def test_tokenizer_of_the_base_models_folder_is_copied(tmp_path: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(save_tiny_model(tmp_path / "base"))
    model = get_peft_model(base, Lora2Config(task_type="SEQ_CLS", init_weights=False))
    export_merged(model, tmp_path / "merged")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")("the table is here").input_ids
    assert tokens == AutoTokenizer.from_pretrained(tmp_path / "base")("the table is here").input_ids


def test_a_missing_tokenizer_is_named_in_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        export_merged(adapted(), tmp_path / "merged")
    (found,) = (each for each in seen if "pass tokenizer= to export_merged" in str(each.message))
    assert found.filename == __file__


@pytest.mark.parametrize("write", [export_lora, export_gguf])
def test_a_model_that_was_given_up_is_not_exported_again(write, tmp_path: Path) -> None:
    model = adapted()
    export_merged(model, tmp_path / "merged")

    with pytest.raises(UserError, match=r"no adapted layers any longer.* export it before"):
        write(model, tmp_path / "again.gguf")

    assert not (tmp_path / "again.gguf").exists()


@pytest.mark.parametrize("config", [LoHaConfig, IA3Config, VeraConfig])
def test_a_head_of_several_layers_is_put_in_with_every_method(config: type, tmp_path: Path) -> None:
    fields = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
    if config is IA3Config:
        fields["feedforward_modules"] = []
    model = get_peft_model(tiny_roberta(), config(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
        batch = {key: tensor for key, tensor in bert_batch().items() if key != "labels"}
        expected = model(**batch).logits
    export = export_merged(model, tmp_path / "merged", batch=batch)
    with torch.no_grad():
        torch.testing.assert_close(export.model(**batch).logits, expected, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_saved_is_refused_while_the_model_is_whole(tmp_path: Path) -> None:
    model = adapted()
    model.base_model.disable_adapter_layers()
    with pytest.raises(UserError, match="its adapters are disabled"):
        export_merged(model, tmp_path / "merged")
    model.base_model.enable_adapter_layers()
    model.get_base_model().generation_config.temperature = 0.5
    model.get_base_model().generation_config.do_sample = False
    with pytest.raises(UserError, match="does not write its generation_config"):
        export_merged(model, tmp_path / "merged")
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not list(tmp_path.iterdir())
