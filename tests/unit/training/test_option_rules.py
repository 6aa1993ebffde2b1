"""Options without effect and values out of range: one sentence, and no folder."""

import math

import pytest

from command_line import refused, small_options, train
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.errors import UserError
from lora2.support.field_types import fits
from lora2.support.files import as_yaml
from lora2.support.ranges import Range
from lora2.training.checks.option_effects import EFFECTS, NEEDS
from lora2.training.checks.option_ranges import RANGES, check_values
from lora2.training.methods.registry import METHODS
from lora2.training.on_disk.run_files import option_types
from lora2.training.options.arguments import RunSettings, option_names
from lora2.training.options.data_arguments import DataArguments
from lora2.training.options.method_arguments import METHOD_GROUPS, PromptArguments
from lora2.training.options.model_arguments import ModelArguments
from lora2.training.options.run_arguments import RunArguments
from lora2.training.options.text_arguments import TextArguments
from lora2.training.trainer.run_trainer import RunTrainer

# Words of `lora2 train`; the first is refused.
WITHOUT_EFFECT = [
    "--threshold=0.3", "--threshold_schedule=linear", "--activation=relu", "--virtual_tokens=5",
    "--bottleneck_size=4 --method=lora", "--init_r=4 --method=lora", "--init_r=8 --method=lora",
    "--target_r=2 --method=sora", "--k=4 --method=adalora", "--k=4 --method=full",
    "--orthogonality_terms=uv --method=adalora", "--target_modules=query --method=bitfit",
    "--modules_to_save=pooler --method=full", "--k_pattern={\"query\":4} --method=lora",
    "--start_from=x --method=lora", "--k=4 --start_from=x", "--target_modules=query --start_from=x",
    "--target_parameters=query --start_from=x",
    "--orth_reg_weight=0.2", "--orthogonality_terms=uv", "--init_std=0.1",
    "--tinit=0.2 --target_r=none", "--beta1=0.5 --target_r=none",
    "--max_threshold=0.1 --method=sora", "--layers_pattern=layer",
    "--packing=True", "--train_rows=3", "--max_new_tokens=4", "--loss_type=dft",
    "--label_column=x --objective=sft", "--train_sentences=10 --objective=sft",
    "--head_start=zero --objective=sft", "--baseline=head --objective=sft",
    "--packing_strategy=wrapped --objective=sft",
    "--train_rows=5 --objective=sft --train_file=x.jsonl",
    "--train_sentences=20 --task=cola", "--validation_sentences=20 --train_file=x.csv",
    "--data_dir=x", "--data_dir=x --train_file=x.csv", "--label_column=x", "--text_columns=x",
    "--kind=regression", "--validation_file=x.csv", "--dataset_config=x",
    "--dataset_config=x --train_file=x.csv", "--dataset_seed=1 --task=cola",
    "--dataset_seed=1 --train_file=x.csv --validation_file=y.csv",
    "--baseline_epochs=2 --baseline=none", "--baseline=head --method=head",
    "--save_steps=5", "--eval_steps=5", "--eval_delay=1 --eval_strategy=no",
    "--logging_steps=5 --logging_strategy=epoch", "--save_total_limit=2 --save_strategy=no",
    "--lr_scheduler_kwargs={\"a\":1} --lr_scheduler_type=constant",
    "--lr_scheduler_kwargs={\"a\":1} --lr_scheduler_type=constant_with_warmup",
    "--warmup_steps=5 --lr_scheduler_type=constant", "--adam_beta1=0.8 --optim=sgd",
    "--optim_args=a=1", "--optim_target_modules=query", "--dataloader_prefetch_factor=2",
    "--dataloader_persistent_workers=True", "--fsdp_config={\"a\":1}",
    "--liger_kernel_config={\"rope\":true}", "--run_name=x",
    "--neftune_noise_alpha=5 --method=prompt", "--label_smoothing_factor=0.1 --method=prompt",
]  # fmt: skip


def first_name(words: str) -> str:
    return words.removeprefix("--").partition("=")[0]


@pytest.fixture(scope="module")
def parser() -> TrainParser:
    return TrainParser()


@pytest.mark.parametrize("words", WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused(words, parser):
    name = first_name(words)
    with pytest.raises(
        UserError, match=f"^{name}(=.* has no effect .*; leave {name} out|: .* named; add --)"
    ):
        resolve(parser, words.split())


@pytest.mark.parametrize(
    "words",
    [
        "--baseline=none --objective=sft", "--packing=False", "--max_threshold=none",
        "--tinit=0.2", "--eval_steps=5 --eval_strategy=steps",
        "--orth_reg_weight=0.2 --orthogonality=penalty", "--max_steps=4 --num_train_epochs=2",
        "--dataloader_prefetch_factor=2 --dataloader_num_workers=1", "--init_r=4 --method=adalora",
        "--target_r=2 --start_from=x", "--label_smoothing_factor=0.1",
    ],
)  # fmt: skip
def test_what_is_off_or_has_an_effect_is_accepted(words, parser):
    resolve(parser, words.split())


# Options that the lowest version of transformers does not know.
LATER = {"activation_checkpointing_kwargs", "dataloader_multiprocessing_context"}


def test_every_rule_is_about_options_that_there_are(parser):
    known = RunSettings.from_options({}).to_options().keys() | {a.dest for a in parser._actions}
    assert {name for options in EFFECTS for name in options} <= known | LATER
    assert set(RANGES) | set(NEEDS) <= known


def test_every_number_of_our_own_options_has_a_range_with_its_default_in_it():
    # These are checked with the data and the model, which set the limits.
    limited_later = {"max_length", "classifier_dropout"}
    for group in (DataArguments, TextArguments, ModelArguments, RunArguments, PromptArguments):
        numbers = {name for name in option_names(group) if fits(1, option_types()[name])}
        assert numbers <= RANGES.keys() | limited_later
    for name, allowed in RANGES.items():
        default = RunSettings.from_options({}).to_options().get(name)
        assert default is None or allowed.holds(default)


def test_every_option_of_methods_is_read_by_one():
    read = {name for method in METHODS.values() for name in method.options}
    assert read == {name for group in METHOD_GROUPS for name in option_names(group)}


@pytest.mark.parametrize(
    ("text", "more", "refused_name"),
    [
        ("threshold: 0.3\n", [], "threshold"),
        ("threshold: 0.0001\n", [], None),
        ("threshold: 0.3\n", ["--method=sora"], None),
        ("method: adalora\ninit_r: 12\n", ["--method=lora"], None),
        ("method: adalora\ninit_r: 5\n", ["--method=lora"], "init_r"),
    ],
)
def test_a_file_may_hold_what_holds_anyway(text, more, refused_name, parser, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    arguments = [f"--config={file}", *more]
    if refused_name is None:
        resolve(parser, arguments)
        return
    with pytest.raises(UserError, match=rf"^{refused_name}=.* \(in .*run.yaml\) has no effect"):
        resolve(parser, arguments)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", [{}, {"task": "cola"}, {"train_file": "x.csv"}], ids=str)
def test_the_config_of_every_run_makes_the_same_run(method, data, parser, tmp_path):
    settings = resolve(parser, small_options(method=method, **data))
    file = tmp_path / "config.yaml"
    file.write_text(as_yaml(settings.to_options()))
    assert resolve(parser, [f"--config={file}"]).to_options() == settings.to_options()


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(0), (0, 1e300), (-1e-9, math.nan, math.inf, -math.inf)),
        (Range(0, open=True, whole_from=1), (0.5, 3, 3.0), (0, 1.5)),
        (Range(1, 10, whole_from=1, instead=-1), (1, 9, -1), (0, 10, -2)),
    ],
    ids=str,
)
def test_a_range_holds_finite_numbers_between_its_ends(allowed, inside, outside):
    assert all(allowed.holds(value) for value in inside)
    assert not any(allowed.holds(value) for value in outside)


# The first word is named; all are refused before data or model are loaded.
BAD_VALUES = [
    "--max_steps=0", "--max_steps=-2", "--num_train_epochs=0", "--num_train_epochs=nan",
    "--num_train_epochs=inf", "--baseline_epochs=-1 --baseline=head", "--learning_rate=nan",
    "--weight_decay=inf", "--warmup_steps=-1", "--warmup_steps=1.5", "--max_grad_norm=nan",
    "--label_smoothing_factor=2", "--neftune_noise_alpha=-1", "--save_total_limit=0",
    "--save_steps=0 --save_strategy=steps", "--eval_steps=0 --eval_strategy=steps",
    "--logging_steps=0", "--per_device_train_batch_size=0", "--per_device_eval_batch_size=0",
    "--gradient_accumulation_steps=0", "--dataloader_num_workers=-1", "--seed=4294967296",
    "--seed=-1", "--data_seed=4294967296", "--dataset_seed=-1", "--lora_alpha=1e40",
    "--init_r=99999999999", "--target_modules=(", "--exclude_modules=*x",
    "--layers_pattern=( --layers_to_transform=0", '--k_pattern={"(":4}', '--rank_pattern={"[":4}',
    '--alpha_pattern={"(":4}', '--alpha_pattern={"query":0}', '--alpha_pattern={"query":1e40}',
    '--rank_pattern={"query":99999999999}', "--torch_compile_mode=x",
    "--torch_compile_mode=", "--include_num_input_tokens_seen=", "--adam_epsilon=0",
    "--adam_epsilon=1e-40", "--target_modules=[[",
    "--use_liger_kernel=True", '--deepspeed={"a":1}', "--virtual_tokens=0 --method=prompt",
]  # fmt: skip


@pytest.mark.parametrize("option", ["torch_compile_mode", "include_num_input_tokens_seen"])
@pytest.mark.parametrize("text", [" ", "default all"])
def test_a_choice_is_one_word(option, text, parser):
    with pytest.raises(UserError, match=f"^{option}=.* must be "):
        check_values(resolve(parser, [f"--{option}={text}"]))


@pytest.mark.parametrize("words", BAD_VALUES)
def test_a_value_that_cannot_be_used_is_refused_before_anything_is_loaded(words, parser, tmp_path):
    settings = resolve(parser, [*words.split(), f"--output_dir={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=f"^{first_name(words)}[=[]"):
        check_values(settings)


# These need the trainer, the model or both; the first word is named, and no folder is left.
LATE = [
    "--optim=lomo", "--optim=galore_adamw --optim_target_modules=query", "--optim=adamw_8bit",
    "--optim=schedule_free_adamw", "--optim_args=x --optim=sgd", "--optim_args=foo=1 --optim=sgd",
    "--optim_args=momentum=nan --optim=sgd", "--optim=sgd --optim_args=momentum=-1",
    "--optim_args=eps=0 --optim=adagrad",
    "--fsdp=full_shard", "--torch_compile_backend=nonsense", '--accelerator_config={"a":1}',
    '--lr_scheduler_kwargs={"num_cycles":"x"} --lr_scheduler_type=cosine', "--report_to=nowhere",
    "--modules_to_save=nothing", "--exclude_modules=nothing", "--layers_to_transform=9",
    "--layers_pattern=nothing --layers_to_transform=0", '--k_pattern={"nothing":2}',
    '--rank_pattern={"nothing":2}', '--alpha_pattern={"nothing":2}',
    "--target_modules nothing query",
]  # fmt: skip


@pytest.mark.parametrize("words", LATE)
def test_a_late_fault_leaves_no_folder(words, tiny_model, tmp_path, capsys):
    folder = tmp_path / "runs" / "new"
    command = ("train", f"--model={tiny_model}", f"--output_dir={folder}", *small_options())
    said = refused(capsys, *command, *words.split())
    assert first_name(words.split()[0]) in said
    assert not folder.parent.exists()


def test_too_many_virtual_tokens_are_refused(tiny_model, tmp_path, capsys):
    options = small_options(method="prompt", virtual_tokens=17, max_length=48)
    command = ("train", f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}", *options)
    assert "virtual_tokens=17 and max_length=48 are more than the 64" in refused(capsys, *command)


def test_a_smoothed_loss_of_numbers_is_refused(tiny_model, tmp_path, capsys):
    file = tmp_path / "mine.csv"
    file.write_text("text,label\n" + "".join(f"the table {i},{i}\n" for i in range(12)))
    options = small_options(train_file=file, kind="regression", label_smoothing_factor=0.1)
    command = ("train", f"--model={tiny_model}", f"--output_dir={tmp_path / 'run'}", *options)
    assert "label_smoothing_factor=0.1 is for classes" in refused(capsys, *command)


@pytest.mark.parametrize("existed", [True, False])
def test_a_training_that_fails_in_its_first_step_leaves_nothing(
    existed, tiny_model, tmp_path, monkeypatch
):
    def fail(*arguments, **named):
        raise RuntimeError("in the first step")

    monkeypatch.setattr(RunTrainer, "training_step", fail)
    folder = tmp_path / "run"
    if existed:
        folder.mkdir()
    with pytest.raises(RuntimeError, match="in the first step"):
        train(tiny_model, folder)
    assert list(tmp_path.iterdir()) == ([folder] if existed else [])
    assert not existed or not list(folder.iterdir())


def test_a_training_that_fails_later_keeps_what_there_is(tiny_model, tmp_path, monkeypatch):
    def fail(*arguments, **named):
        raise RuntimeError("at the end")

    monkeypatch.setattr("lora2.training.run.save_adapter", fail)
    with pytest.raises(RuntimeError, match="at the end"):
        train(tiny_model, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


def test_all_tasks_are_tuned_with_the_data_of_a_folder(monkeypatch, tmp_path, capsys):
    def reached(*arguments):
        raise UserError("all options have an effect.")

    monkeypatch.setattr("lora2.commands.tune.chosen_experiments", reached)
    assert "an effect" in refused(capsys, "tune", "lora2", f"--data_dir={tmp_path}")


# Of the other commands: the words, and the option that is named.
OTHER_COMMANDS = [
    ("bench steps --sweep=k", "sweep"), ("bench storage --methods=lora2", "methods"),
    ("bench steps --k=99999999999", "k"), ("tune lora2 --ray_address=x", "ray_address"),
    ("tune lora2 --launcher=ray --cpus_per_run=nan", "cpus_per_run"),
    ("tune lora2 --launcher=ray --jobs=2", "jobs"),
    ("tune lora2 --task=agreement --data_dir=.", "data_dir"),
    ("reproduce table1 --rounds=3", "rounds"), ("reproduce table2 --seeds=3", "seeds"),
    ("reproduce times --preset=leaderboard --jobs=2", "jobs"),
    ("reproduce table1 --dry_run --jobs=2", "jobs"),
    ("params --arch=roberta-large --weights=Q --target_modules query", "weights"),
    ("params --arch=roberta-large --r=4 --method=lora", "init_r"),
    ("params --arch=roberta-large --k=4 --method=adalora", "k"),
    ("params --arch=roberta-large --k=0", "k"),
    ("params --arch=roberta-large --virtual_tokens=4", "virtual_tokens"),
    ("params --arch=roberta-large --weights=Q --method=head", "weights"),
    ("params --arch=roberta-large --target_modules (", "target_modules"),
    ("params --arch=roberta-large --target_modules query nothing", "target_modules"),
    ("train --overwrite --resume", "overwrite"),
    ("import nowhere --output=x --target_r=nan", "target_r"),
    ("evaluate nowhere --file=x --data_dir=y", "data_dir"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "name"), OTHER_COMMANDS)
def test_other_commands_follow_the_same_rule(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *words.split()).startswith(f"lora2: {name}=")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("params --arch=roberta-large --r=4 --method=lora", "--k"),
        ("params --arch=roberta-large --k=4 --method=adalora", "--init_r"),
        ("params --arch=roberta-large --k=4 --method=dora", "r in --peft_config"),
        ("train --method=dora --k=4", "r in --peft_config"),
    ],
)
def test_a_rank_without_effect_names_the_option_of_the_rank(words, option, capsys):
    assert f", whose rank is {option}" in refused(capsys, *words.split())


@pytest.mark.parametrize("command", ["train", "bench", "tune x", "evaluate", "predict", "inspect"])
@pytest.mark.parametrize("text", ["a\0b", "a\udcffb"], ids=["NUL", "not UTF-8"])
def test_words_that_no_file_could_hold_are_refused(command, text, capsys):
    option = "config" if command == "train" else "model"
    said = refused(capsys, *command.split(), f"--{option}={text}")
    assert said.startswith(f"lora2: {option}: ")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("tune lora2 --records=file", "records"),
        ("reproduce table1 --work=file/below", "work"),
        ("reproduce table1 --output_dir=file", "output_dir"),
        ("bench steps --output_dir=file/below", "output_dir"),
    ],
)
def test_a_file_in_place_of_a_folder_is_refused(words, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    assert refused(capsys, *words.split()) == f"lora2: {option}: file is a file; give a folder.\n"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("tune lora2", "records"),
        ("reproduce table1", "work"),
        ("reproduce table1", "output_dir"),
        ("bench steps", "output_dir"),
    ],
)
def test_an_empty_text_is_no_folder(command, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *command.split(), f"--{option}=")
    assert said.startswith(f"lora2: {option} is an empty text; write the path of a folder")


def test_an_empty_argument_is_shown(capsys):
    assert refused(capsys, "bench", "steps", "").startswith("lora2: '' is not an argument of")


def test_a_bench_that_is_refused_makes_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "bench", "steps", "--models=minilm", "--length=100000")
    assert "length=100000 is more than" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["bench steps", "reproduce table1"])
def test_a_folder_that_takes_no_files_is_refused_before_the_work(words, capsys, monkeypatch):
    def work(*arguments, **named):
        raise AssertionError("it has begun")

    monkeypatch.setattr("lora2.lab.benchmarks.steps.measure", work, raising=False)
    monkeypatch.setattr("lora2.commands.reproduce._make_grid", work)
    said = refused(capsys, *words.split(), "--output_dir=/proc/x")
    assert said.startswith("lora2: output_dir: nothing can be written into /proc (")


@pytest.mark.parametrize("command", ["train", "export x", "predict"])
def test_two_dashes_are_no_value(command, capsys):
    option = "output_dir" if command == "train" else "output"
    said = refused(capsys, *command.split(), f"--{option}=--")
    assert said == f"lora2: {option}: '--' is no value; write another.\n"
