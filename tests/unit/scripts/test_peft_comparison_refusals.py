"""What an experiment or a data folder cannot have: one sentence, exit code 2, nothing written."""

import json
from pathlib import Path
from typing import Any

import pytest

import peft_method_comparison
from peft_comparison import task_data
from peft_comparison.train_config import TrainConfig

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
LORA2 = {"peft_type": "LORA2", "k": 4, "init_r": 4, "target_r": 1, "target_modules": ["q_proj"]}
SHORT = {"dtype": "float32", "max_steps": 4, "eval_steps": 4, "max_seq_length": 32}
ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "aa", "completion": "bb"}]


def write_data(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    sets = dict.fromkeys(("train", "validation", "test"), ROWS)
    for name, rows in (sets | {"other": [{"text": "Once"}]} | files).items():
        if rows is not None:
            (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def write_experiment(folder: Path, adapter: Any, train: Any) -> Path:
    folder.mkdir(parents=True)
    for name, content in (("adapter_config", adapter), ("training_params", train)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_text(text)
    return folder


def refusal(capsys, *words: object) -> str:
    assert peft_method_comparison.main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


TRAIN: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no JSON": ("{", "training_params.json"),
    "a misspelt field": ({"max_step": 3}, "write max_steps"),
    "a field of long ago": ({"max_generation_length": 500}, "max_generation_length is no field"),
    "a text for a number": ({"batch_size": "4"}, "batch_size is '4'"),
    "another precision": ({"dtype": "float8"}, "dtype is 'float8'"),
    "no rows in a batch": ({"batch_size_eval": 0}, "batch_size_eval is 0"),
    "no evaluation": ({"eval_steps": 9, "max_steps": 8}, "eval_steps is 9"),
    "negative clipping": ({"grad_norm_clip": -1}, "grad_norm_clip is -1"),
    "a negative seed": ({"seed": -1}, "seed is -1"),
    "no optimizer": ({"optimizer_type": "Adamm"}, "optimizer_type is 'Adamm'"),
    "no class of an optimizer": ({"optimizer_type": "lr_scheduler"}, "optimizer_type"),
    "an optimizer that computes losses": ({"optimizer_type": "LBFGS"}, "'LBFGS', which computes"),
    "an optimizer of sparse gradients": ({"optimizer_type": "SparseAdam"}, "is for sparse"),
    "no optimizer at all": ({"optimizer_type": "Optimizer"}, "is the base of all others"),
    "another schedule": ({"lr_scheduler": "linear"}, "lr_scheduler is 'linear'"),
    "a template without query": ({"query_template": "Q:"}, "query_template is 'Q:'"),
    "a template with braces": ({"query_template": "{query} {x}"}, "no other braces"),
    "an option of no generation": ({"generation_kwargs": {"max_new": 3}}, "has max_new"),
    "no new tokens": ({"generation_kwargs": {"max_new_tokens": 0}}, "max_new_tokens=0"),
    "gradients without scale": (
        {"use_amp": True, "dtype": "float16", "autocast_adapter_dtype": False}, "use_amp is true",
    ),
    "a prefix of LoRA": ({"init_kv_cache_prefix": "Add."}, "init_kv_cache_prefix is for"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAIN)
def test_a_field_that_cannot_be_is_named(name, tmp_path, capsys):
    train, named = TRAIN[name]
    experiment = write_experiment(tmp_path / "lora" / "any", LORA, train)
    said = refusal(capsys, experiment, f"--output_dir={tmp_path / 'out'}")
    assert named in said
    assert not (tmp_path / "out").exists()


ADAPTERS: dict[str, tuple[Any, Any, str]] = {
    "nothing": (None, None, "neither adapter_config.json nor"),
    "no object": ("[]", None, "adapter_config.json"),
    "no method": ({"r": 4}, None, "has no peft_type"),
    "another method": ({"peft_type": "LORA9"}, None, "LORA9"),
    "what a method refuses": (LORA2 | {"target_r": 9}, None, "target_r=9"),
    "a field of another method": (LORA2 | {"r": 9}, None, "the rank of the change is called k"),
    "a field of a later PEFT": (
        LORA | {"use_new": True, "new": None},
        None,
        "use_new is no field of",
    ),
    "an adapter that is not trained": (LORA | {"inference_mode": True}, None, "inference_mode"),
    "a start of data": (LORA | {"init_lora_weights": "eva"}, None, "is 'eva', which is computed"),
    "a schedule of another length": (LORA2 | {"total_step": 9}, SHORT, "total_step is 9"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_cannot_be_is_named(name, tmp_path, capsys):
    adapter, train, named = ADAPTERS[name]
    experiment = write_experiment(tmp_path / "any" / "any", adapter, train)
    assert named in refusal(capsys, experiment, f"--output_dir={tmp_path / 'out'}")


def test_an_experiment_that_is_no_folder_is_named(tmp_path, capsys):
    assert "is no folder" in refusal(capsys, tmp_path / "none")


ON_THE_MODEL: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "other modules": (LORA | {"target_modules": ["qqq"]}, {}, "qqq"),
    "a window without steps": (LORA2 | {"tinit": 3, "tfinal": 3}, {}, "tinit=3"),
    "options of another optimizer": (LORA, {"optimizer_kwargs": {"rate": 1}}, "optimizer_kwargs"),
    "an optimizer of LoRA": (LORA2, {"optimizer_type": "lora-fa"}, "lora-fa"),
    "another attention": (LORA, {"attn_implementation": "swift"}, "swift"),
    "a text for beams": (LORA, {"generation_kwargs": {"num_beams": "3"}}, "'num_beams': '3'"),
    "no temperature": (
        LORA,
        {"generation_kwargs": {"temperature": -1.0, "do_sample": True}},
        "cannot be used",
    ),
    "two answers": (
        LORA,
        {"generation_kwargs": {"num_return_sequences": 2, "num_beams": 2, "max_new_tokens": 4}},
        "2 answers to one question",
    ),
    "another form of answers": (
        LORA,
        {"generation_kwargs": {"return_dict_in_generate": True, "max_new_tokens": 4}},
        "generation_kwargs of training_params.json",
    ),
}


@pytest.mark.parametrize("name", ON_THE_MODEL)
def test_what_the_model_does_not_take_is_named(name, language_model, tmp_path, capsys):
    adapter, train, named = ON_THE_MODEL[name]
    experiment = write_experiment(tmp_path / "any" / "any", adapter, SHORT | train)
    data = write_data(tmp_path / "data")
    said = refusal(
        capsys, experiment, f"--model={language_model}", f"--data_dir={data}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert named in said
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_loss_that_is_no_number_stops_the_training(language_model, tmp_path, capsys):
    rates = {"optimizer_kwargs": {"lr": 1e30}, "generation_kwargs": {"max_new_tokens": 2}}
    experiment = write_experiment(tmp_path / "lora" / "any", LORA, SHORT | rates)
    words = [experiment, f"--model={language_model}", f"--data_dir={write_data(tmp_path / 'data')}"]
    words.append(f"--output_dir={tmp_path / 'out'}")
    assert peft_method_comparison.main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert "NaN or infinity in the loss of step 2: write a smaller lr" in said.err
    (written,) = (tmp_path / "out").rglob("*.json")
    assert "cancelled_results" in str(written)


MATHS = [{"query": "1+1?", "response": "It is two. The answer is: 2"}]
DATA: dict[str, tuple[dict[str, Any], str]] = {
    "a set is missing": ({"test": None}, "lacks test.jsonl"),
    "sets of two kinds": ({"test": MATHS}, "some files have query and response"),
    "no answer": (
        {"train": MATHS, "validation": MATHS, "test": [{"query": "1?", "response": "one"}]},
        "the response in row 1 of",
    ),
    "messages": (
        {"train": [{name: [{"role": "assistant", "content": "a"}] for name in ROWS[0]}]},
        "messages",
    ),
    "other columns": ({"validation": [{"a": "b"}]}, "no column 'prompt'"),
    "a long text": (
        {"train": [{"query": "a" * 1300, "response": "b"}], "validation": MATHS, "test": MATHS},
        "more than 1300 characters",
    ),
    "no text": ({"other": [{"page": "a"}]}, "no column 'text'"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_is_named(name, tmp_path, capsys):
    files, named = DATA[name]
    experiment = write_experiment(tmp_path / "lora" / "any", LORA, SHORT)
    data = write_data(tmp_path / "data", **files)
    assert named in refusal(
        capsys, experiment, f"--data_dir={data}", f"--output_dir={tmp_path / 'out'}"
    )


def test_other_texts_that_cannot_be_downloaded_are_named(tmp_path, capsys, monkeypatch):
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Offline mode is enabled.")

    monkeypatch.setattr(task_data.datasets, "load_dataset", offline)
    experiment = write_experiment(tmp_path / "lora" / "any", LORA, SHORT)
    data = write_data(tmp_path / "data", other=None)
    said = refusal(capsys, experiment, f"--data_dir={data}", f"--output_dir={tmp_path / 'out'}")
    assert "finewiki" in said
    assert "write other.jsonl" in said


def test_an_older_result_stays(tmp_path, capsys):
    experiment = write_experiment(tmp_path / "lora" / "any", LORA, SHORT)
    (tmp_path / "results").mkdir()
    older = tmp_path / "results" / "lora--any.json"
    older.write_text("{}")
    assert "--overwrite" in refusal(capsys, experiment, f"--output_dir={tmp_path}")
    assert older.read_text() == "{}"


def test_every_field_of_pefts_configuration_is_known():
    # Those of a result file of July 2026 (deft--llama-3.2-3B-rank32.json), in its order.
    assert list(vars(TrainConfig())) == [
        "model_id", "dtype", "max_seq_length", "batch_size", "batch_size_eval", "max_steps",
        "eval_steps", "compile", "use_gc", "query_template", "seed", "grad_norm_clip",
        "optimizer_type", "optimizer_kwargs", "lr_scheduler", "use_amp", "autocast_adapter_dtype",
        "generation_kwargs", "attn_implementation", "init_kv_cache_prefix",
    ]  # fmt: skip
