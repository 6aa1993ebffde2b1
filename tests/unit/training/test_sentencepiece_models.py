"""A model whose tokenizer is a SentencePiece file alone, as the paper's own is on the hub."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoModelForSequenceClassification, AutoTokenizer, T5Config, T5Model

from command_line import lora2, refused, train
from lora2.errors import UserError
from lora2.lab.experiments.presets.registry import PRESETS
from lora2.lab.experiments.presets.table_request import TableRequest
from lora2.lab.experiments.running.execution import Place, execute_run
from lora2.lab.experiments.running.feasibility import check_feasible
from lora2.training.base_models.preprocessors import load_tokenizer
from sentencepiece_model import save_deberta, save_rte, save_sentencepiece

pytestmark = pytest.mark.slow

# In place of what the paper's scripts say: two steps, of which the last prunes.
STEPS = {"max_steps": 2, "warmup_steps": 0, "eval_steps": 1}
SCHEDULES = {"full fine-tuning": {}, "LoRA²": {"tinit": 0, "tfinal": 1, "deltaT": 1}}
# model_type → the name of its file and how it numbers special tokens.
FILES = {
    "t5": ("spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
    "xlm-roberta": ("sentencepiece.bpe.model", {}),
    "llama": ("tokenizer.model", {"model_type": "bpe"}),
}


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_deberta(tmp_path_factory.mktemp("model") / "deberta-v3-base")


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rte(tmp_path_factory.mktemp("data") / "glue")


@pytest.fixture(scope="module")
def rte_run(deberta: Path, glue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "rte"
    command = ("train", f"--model={deberta}", "--task=rte", f"--data_dir={glue}", "--max_steps=2")
    sizes = ("--k=2", "--init_r=2", "--target_r=2", "--learning_rate=0.01")
    assert lora2(*command, *sizes, f"--output_dir={folder}") == 0
    return folder


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch):
    """A function that makes a package impossible to import."""

    def hide(*modules: str) -> None:
        monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2", raising=False)
        for module in ("sentencepiece.sentencepiece_model_pb2", *modules):
            monkeypatch.setitem(sys.modules, module, None)

    return hide


def test_such_a_model_trains_and_predicts(rte_run, capsys):
    assert lora2("predict", rte_run, "--text=It rains.", "--text_pair=It is wet.") == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("entailment", "not_entailment")
    assert lora2("evaluate", rte_run) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_such_a_model_is_exported(form, rte_run, tmp_path):
    assert lora2("export", rte_run, f"--to={form}", "--output", tmp_path / form) == 0


def test_an_exported_model_needs_no_sentencepiece(rte_run, tmp_path, hidden):
    assert lora2("export", rte_run, "--to=merged", "--output", tmp_path / "merged") == 0
    hidden("sentencepiece", "google.protobuf")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged").tokenize("It rains.")
    assert "".join(tokens).startswith("▁It")


@pytest.mark.parametrize("label", SCHEDULES)
def test_such_a_model_runs_the_papers_table(label, deberta, glue, tmp_path):
    grid = PRESETS["paper"].grid(TableRequest("table1", str(deberta), (0,), {}))
    row = next(row for row in grid.rows if row.label == label)
    (run,) = row.runs["rte"]
    run = dataclasses.replace(run, options=run.options | STEPS | SCHEDULES[label])
    place = Place(tmp_path / "work", str(glue))
    check_feasible([run], place)
    record = execute_run(run, place)
    assert (record.status, record.steps, record.error) == ("finished", 2, None)


@pytest.mark.parametrize("model_type", FILES)
def test_a_tokenizer_is_made_of_the_file(model_type, tmp_path, hidden, capsys):
    name, tokens = FILES[model_type]
    save_sentencepiece(tmp_path / name, **tokens)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert "".join(load_tokenizer(str(tmp_path)).tokenize("the cat")).endswith("the▁cat")
    hidden("sentencepiece", "google.protobuf")
    said = refused(capsys, "train", f"--model={tmp_path}", f"--output_dir={tmp_path / 'run'}")
    assert name in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", [["sentencepiece", "google.protobuf"], ["google.protobuf"]])
def test_both_packages_are_named_when_one_is_missing(missing, deberta, tmp_path, hidden, capsys):
    hidden(*missing)
    said = refused(capsys, "train", f"--model={deberta}", f"--output_dir={tmp_path / 'run'}")
    for named in ("spm.model", "'sentencepiece'", "'protobuf'", "pip install 'lora2[train]'"):
        assert named in said
    assert "tiktoken" not in said


@pytest.fixture(scope="module")
def t5_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that reads the end token of each row, and refuses rows without it."""
    model, run = (tmp_path_factory.mktemp(name) / "t5" for name in ("model", "runs"))
    model.mkdir()
    name, tokens = FILES["t5"]
    save_sentencepiece(model / name, **tokens)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=512, decoder_start_token_id=0, **sizes)).save_pretrained(model)
    assert train(model, run, "--target_modules=all-linear") == 0
    return run


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_an_export_is_checked_on_the_rows_of_the_run(form, t5_run, tmp_path, monkeypatch):
    for module in ("verification", "merged"):
        monkeypatch.delattr(f"lora2.exchange.{module}.sample_batch")
    assert lora2("export", t5_run, f"--to={form}", "--output", tmp_path / form) == 0


def test_an_export_is_checked_on_made_up_rows_where_the_data_are_gone(t5_run, tmp_path, capsys):
    def gone(*arguments, **named):
        raise UserError("data_dir: is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora2.training.objectives.classification.load_task", gone)
        assert lora2("export", t5_run, "--output", tmp_path / "lora") == 0
