import dataclasses
from pathlib import Path

import pytest
from peft.config import PeftConfig

from command_line import lora2, refused
from lora2 import Lora2Config, UserError
from lora2.commands import meant_option
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.options.arguments import RunSettings
from lora2.training.options.recipes import BY_TASK, GENERAL
from lora2_cli.commands import COMMANDS


def settings(*arguments: str) -> RunSettings:
    return resolve(TrainParser(), arguments)


def test_help_lists_the_commands(capsys):
    assert lora2("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_no_argument_is_help(capsys):
    assert lora2() == 0
    assert capsys.readouterr().out.startswith("usage: lora2 COMMAND")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        lora2(command, "--help")
    assert left.value.code == 0
    assert f"lora2 {command}" in capsys.readouterr().out


def test_train_help_explains_every_field_of_the_adapter(capsys):
    with pytest.raises(SystemExit):
        lora2("train", "--help")
    text = " ".join(capsys.readouterr().out.split())
    plumbing = {field.name for field in dataclasses.fields(PeftConfig)} | {"total_step"}
    for field in dataclasses.fields(Lora2Config):
        if field.name not in plumbing:
            assert f"--{field.name}" in text
            assert field.metadata["help"].split()[0] in text
    # The adapter's and the data's options come first.
    assert text.index("adapter (Lora2Config)") < text.index("data: ") < text.index("training (")


def test_unknown_command_names_the_nearest(capsys):
    assert "did you mean train?" in refused(capsys, "trian")


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option_is_one_sentence(command, capsys):
    words = [] if command in ("train", "params") else ["somewhere"]
    more = ["--output=x"] if command in ("export", "combine", "import") else []
    assert "--colour" in refused(capsys, command, *words, *more, "--colour", "red")


def test_unknown_option_names_the_nearest(capsys):
    assert "did you mean --learning_rate?" in refused(capsys, "train", "--lerning_rate=1")


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("--lr", "did you mean --learning_rate?"),
        ("--evaluation_strategy", "did you mean --eval_strategy?"),
        ("--hlp", "`lora2 train --help` lists all"),
        ("--r", "did you mean --k?"),
        ("--lora-rank", "did you mean --k?"),
        ("--epochs", "did you mean --num_train_epochs?"),
        ("--model_name_or_path", "did you mean --model?"),
        ("--resume_from_checkpoint", "did you mean --resume?"),
        ("--overwrite_output_dir", "did you mean --overwrite?"),
        ("--load_best_model_at_end", "; a run keeps its last adapter, because"),
        ("--bf16_full_eval", "; a run is evaluated in the precision that it is trained in"),
        ("--load_in_4bit", "; quantized base models are trained from Python"),
    ],
)
def test_the_nearest_option_is_one_that_could_be_meant(option, near, capsys):
    assert near in refused(capsys, "train", f"{option}=1")


def test_names_from_elsewhere_lead_to_options_and_are_none():
    options = TrainParser().parse_args([]).__dict__.keys()
    of_other_commands = {"output", "rank"}
    meant = {name for names in meant_option._ELSEWHERE.values() for name in names}
    assert meant <= options | of_other_commands
    assert not (meant_option._ELSEWHERE.keys() | meant_option._DECIDED.keys()) & options


def test_an_abbreviated_option_is_unknown(capsys):
    assert "--learning_r" in refused(capsys, "train", "--learning_r=1")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--k=many", "argument --k: 'many' is not a whole number, such as 8;"),
        ("--max-length=1.5", "argument --max_length: '1.5' is not a whole number, such as 8;"),
        ("--learning_rate=fast", "argument --learning_rate: 'fast' is not a number, such as 0.5;"),
        ("--bf16=2", "argument --bf16: '2' is neither true nor false;"),
        ("--head_learning_rate=x", "argument --head_learning_rate: 'x' is not a number, such"),
    ],
)
def test_value_of_the_wrong_kind_is_one_sentence(option, said, capsys):
    assert said in refused(capsys, "train", option)


def test_value_of_a_switch_without_one_is_one_sentence(capsys):
    said = refused(capsys, "export", "run", "--output=x", "--compact=yes")
    assert "argument --compact: takes no value, and was given 'yes';" in said


def test_word_that_is_no_choice_is_one_sentence(capsys):
    assert "penalti" in refused(capsys, "train", "--orthogonality=penalti")


def test_defaults_are_the_recipe_of_agreement():
    resolved = settings()
    assert resolved.data.task == "agreement"
    assert resolved.folder == Path("runs/agreement")
    assert resolved.training["learning_rate"] == GENERAL["learning_rate"]
    assert resolved.run.baseline == BY_TASK["agreement"]["baseline"]


@pytest.mark.parametrize("task", BY_TASK)
def test_every_recipe_is_made_of_options(task):
    resolved = settings("--task", task).to_options()
    for name, value in (GENERAL | BY_TASK[task]).items():
        assert resolved[name] == value


def test_own_data_take_the_general_recipe():
    resolved = settings("--train_file=x/mine.csv")
    assert resolved.data.task is None
    assert resolved.run.baseline == "none"
    assert resolved.folder == Path("runs/mine")


def test_command_line_goes_before_file_and_file_before_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("k: 4\nlearning-rate: 2e-3\nseed: 5\n")
    resolved = settings("--config", str(file), "--seed", "7")
    assert resolved.adapter["k"] == 4
    assert resolved.training["learning_rate"] == 2e-3
    assert resolved.training["seed"] == 7
    assert resolved.adapter["init_r"] == GENERAL["init_r"]


def test_file_takes_lists_mappings_null_and_truth_values(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "target_modules: [query, value]\nk_pattern: {query: 4}\ntarget_r: null\n"
        "eval_on_start: true\ninit_weights: lora\nlogging_nan_inf_filter: false\n"
    )
    resolved = settings(f"--config={file}")
    assert resolved.adapter["target_modules"] == ["query", "value"]
    assert resolved.adapter["k_pattern"] == {"query": 4}
    assert resolved.adapter["target_r"] is None
    assert resolved.adapter["init_weights"] == "lora"
    assert resolved.training["eval_on_start"] is True
    assert resolved.training["logging_nan_inf_filter"] is False


def test_none_on_the_command_line_is_none():
    assert settings("--target_r", "none").adapter["target_r"] is None


def test_mapping_on_the_command_line_is_json(capsys):
    assert settings('--k_pattern={"query": 4}').adapter["k_pattern"] == {"query": 4}
    assert "JSON" in refused(capsys, "train", "--k_pattern=query")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kk: 4\n", "'kk'"),
        ("k: many\n", "k is 'many'"),
        ("- k\n", "option: value"),
        ("k: [\n", "YAML"),
    ],
)
def test_bad_file_is_refused(text, names, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=names):
        settings(f"--config={file}")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        settings(f"--config={tmp_path / 'none.yaml'}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("all", "all"), ("non_padding", "non_padding"), ("true", True), ("no", False)],
)
def test_an_option_that_is_a_switch_or_a_word_takes_both(text, value):
    read = settings(f"--include_num_input_tokens_seen={text}").training
    assert read["include_num_input_tokens_seen"] == value


def test_help_lists_no_choice_that_is_refused(capsys):
    with pytest.raises(SystemExit):
        lora2("train", "--help")
    assert "{no,steps,epoch}" in capsys.readouterr().out
    assert "--save_strategy: invalid choice" in refused(capsys, "train", "--save_strategy=best")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("MISS", "miss"), ("LoRA", "lora"), ("lora-2", "lora2"), ("full-ft", "full"), ("xyz", None)],
)
def test_a_choice_that_is_nearly_right_is_answered_with_the_right_one(given, meant, capsys):
    said = refused(capsys, "train", f"--method={given}")
    hint = "" if meant is None else f", did you mean {meant!r}"
    assert f"argument --method: invalid choice: {given!r}{hint} (choose from 'head', " in said


@pytest.mark.parametrize("option", ["--objective=image-classification --train_file", "--dataset"])
def test_a_run_in_the_folder_that_it_reads_is_refused(option, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    said = refused(capsys, "train", *option.split(), ".")
    assert "output_dir: runs/photos is in the folder ." in said
    assert settings(*option.split(), str(tmp_path / "photos")).folder.name == "photos"
