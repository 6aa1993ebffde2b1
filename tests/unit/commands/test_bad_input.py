"""What a user may get wrong: one sentence, exit code 2, and nothing half-written."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from transformers import TrainingArguments

from command_line import refused, save_tiny_model, save_tokenizer, small_options
from lora2.errors import UserError
from lora2.training.trainer.argument_checks import check_learning_rate_schedule

GOOD = "text,label\n" + "".join(f"the table is here {i},{'ab'[i % 2]}\n" for i in range(12))

# Name: content of the user's file, more options, what the sentence names.
BAD_DATA = {
    "empty file": ("", [], "is empty"),
    "header alone": ("text,label\n", [], "mine.csv"),
    "missing text column": (GOOD, ["--text_columns=review"], "'review'"),
    "missing label column": (GOOD, ["--label_column=stars"], "'stars'"),
    "labels that are no numbers": (GOOD, ["--kind=regression"], "'a'"),
    "labels that are fractions": (
        "text,label\nhere,0.5\nthere,0.25\naway,1.5\n",
        [],
        "kind=regression",
    ),
    "one label": ("text,label\nhere,a\nthere,a\naway,a\n", [], "single value"),
    "texts all null": ("text,label\n,a\n,b\n,a\n", [], "'text'"),
    "no such kind of file": (GOOD, ["--validation_file=mine.xlsx"], "mine.xlsx"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_data_that_cannot_be_used_are_refused_in_one_sentence(case, tiny_model, tmp_path, capsys):
    content, more, named = BAD_DATA[case]
    file = tmp_path / "mine.csv"
    file.write_text(content)
    folder = tmp_path / "run"
    said = refused(
        capsys,
        "train",
        f"--model={tiny_model}",
        f"--output_dir={folder}",
        *small_options(train_file=file),
        *more,
    )
    assert named in said
    assert not folder.exists()


def no_folder(path: Path) -> None:
    pass


def no_config(path: Path) -> None:
    path.mkdir()
    save_tokenizer(path)


def config_is_no_json(path: Path) -> None:
    save_tiny_model(path)
    (path / "config.json").write_text("{")


def unknown_architecture(path: Path) -> None:
    save_tiny_model(path)
    (path / "config.json").write_text('{"model_type": "abacus"}')


def weights_cut_short(path: Path) -> None:
    save_tiny_model(path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def no_weights(path: Path) -> None:
    save_tiny_model(path)
    (path / "model.safetensors").unlink()


def no_tokenizer(path: Path) -> None:
    save_tiny_model(path)
    (path / "tokenizer.json").unlink()
    (path / "tokenizer_config.json").unlink()


def weights_of_another_size(path: Path) -> None:
    save_tiny_model(path, hidden=32)
    weights = (path / "model.safetensors").read_bytes()
    save_tiny_model(path)
    (path / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(
    "make",
    [
        no_folder,
        no_config,
        config_is_no_json,
        unknown_architecture,
        weights_cut_short,
        no_weights,
        no_tokenizer,
        weights_of_another_size,
    ],
    ids=lambda make: make.__name__,
)
def test_model_that_is_none(make, tmp_path, capsys):
    model = tmp_path / "model"
    make(model)
    folder = tmp_path / "run"
    command = ("train", f"--model={model}", f"--output_dir={folder}", *small_options())
    assert refused(capsys, *command).startswith("lora2: model: ")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"k": 0}, "k=0"),
        ({"target_r": 9}, "target_r=9"),
        ({"tinit": 5, "tfinal": 5}, "tinit=5"),
        ({"max_length": 500}, "max_length"),
        ({"target_modules": "nothing"}, "nothing"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"warmup_steps": -1}, "warmup_steps"),
    ],
    ids=str,
)
def test_options_that_are_invalid(changed, named, tiny_model, tmp_path, capsys):
    folder = tmp_path / "run"
    command = (
        "train",
        f"--model={tiny_model}",
        f"--output_dir={folder}",
        *small_options(**changed),
    )
    assert named in refused(capsys, *command)
    assert not folder.exists()


@pytest.mark.parametrize(
    "option",
    [
        "per_device_train_batch_size=0", "per_device_eval_batch_size=0",
        "gradient_accumulation_steps=0", "dataloader_num_workers=-1", "seed=-1",
        "learning_rate=-1", "learning_rate=nan", "weight_decay=-1", "adam_beta1=2",
        'lr_scheduler_kwargs={"x": 1}', "lr_scheduler_type=cosine_with_min_lr",
        "report_to=nowhere",
    ],
)  # fmt: skip
def test_numbers_that_are_invalid_leave_the_run_that_overwrite_would_replace(
    option, tiny_model, finished_run, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    command = ("train", f"--model={tiny_model}", f"--output_dir={folder}", "--overwrite")
    assert option.split("=")[0] in refused(capsys, *command, *small_options(), f"--{option}")
    assert (folder / "summary.json").is_file()


@pytest.mark.parametrize(("rate", "is_refused"), [(1e-2, False), (5e-4, True)])
def test_the_end_of_a_schedule_must_lie_below_the_learning_rate(rate, is_refused, tmp_path):
    arguments = TrainingArguments(
        str(tmp_path), learning_rate=rate, lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"lr_end": 1e-3}, use_cpu=True,
    )  # fmt: skip
    refusal = pytest.raises(UserError, match="lr_scheduler_type=polynomial")
    with refusal if is_refused else nullcontext():
        check_learning_rate_schedule(arguments, steps=10)


@pytest.mark.parametrize("method", ["lora", "sora", "adalora"])
@pytest.mark.parametrize("pattern", ["k_pattern", "rank_pattern"])
def test_sizes_of_single_matrices_are_refused_where_a_method_has_none(
    pattern, method, tiny_model, tmp_path, capsys
):
    options = [*small_options(method=method), f'--{pattern}={{"query": 2}}']
    command = ("train", f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}", *options)
    assert pattern in refused(capsys, *command)


@pytest.mark.parametrize("options", [{"orthogonality": "penalty"}, {"method": "adalora"}], ids=str)
def test_a_smoothed_loss_beside_a_penalty_is_refused(options, tiny_model, tmp_path, capsys):
    given = small_options(label_smoothing_factor=0.1, **options)
    command = ("train", f"--model={tiny_model}", *given)
    said = refused(capsys, *command, f"--output_dir={tmp_path / 'run'}")
    assert "label_smoothing_factor=0.1" in said


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
@pytest.mark.parametrize("sizes", [{"hidden": 32}, {"layers": 3}, {"layers": 1}], ids=str)
def test_adapter_of_another_base_model(command, sizes, finished_run, tmp_path, capsys):
    model = save_tiny_model(tmp_path / "other", **sizes)
    more = {"predict": ["--text=here"], "export": [f"--output={tmp_path / 'lora'}"]}
    said = refused(capsys, command, finished_run, f"--model={model}", *more.get(command, []))
    assert "another base model" in said
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict", "inspect"])
def test_folder_that_is_no_run(command, tmp_path, capsys):
    more = ["--text=here"] if command == "predict" else []
    assert "no run of lora2" in refused(capsys, command, tmp_path, *more)
    assert not list(tmp_path.iterdir())
