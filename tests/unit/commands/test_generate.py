"""`lora2 generate`: texts for a prompt, a file of prompts, and what is typed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from command_line import lora2, refused
from language_model import byte_tokenizer, save_language_model, train_texts, write_rows
from lora2.training.base_models.generation import encode, generate
from lora2.training.run_loading import load_saved_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter changes what the model writes; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "rewrite"
    model = save_language_model(folder.with_name("model"))
    more = ["--init_weights=False", "--lora_alpha=500"]
    assert train_texts(model, folder, *more, exact_match_rows=0, max_new_tokens=12) == 0
    return folder


def written(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert lora2("generate", *arguments) == 0
    return capsys.readouterr().out.removesuffix("\n")


def test_merged_model_writes_what_the_adapter_writes(run, tmp_path, capsys):
    live = written(capsys, run, "--prompt=two kilos")
    assert live == written(capsys, run, "--prompt=two kilos", "--merged")
    # And not what the model writes without an adapter.
    saved = load_saved_run(run)
    with saved.model.disable_adapter():
        prompt = [
            {"role": "system", "content": "Write in standard form."},
            {"role": "user", "content": "two kilos"},
        ]
        (plain,) = generate(saved.model, saved.tokenizer, [prompt], max_new_tokens=12)
    assert plain != live


def test_a_file_of_prompts_is_answered_in_batches_as_one_by_one(run, tmp_path, capsys):
    prompts = ["two kilos", "3rd of March, 1998", "half a litre"]
    file, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    said = written(capsys, run, "--file", file, "--output", output, "--batch_size=2")
    assert said == f"3 completions written to {output}"
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert [row["completion"] for row in rows] == [
        written(capsys, run, f"--prompt={prompt}") for prompt in prompts
    ]
    assert written(capsys, run, "--file", file) == output.read_text().removesuffix("\n")


def test_messages_in_a_file_are_taken_as_they_stand(run, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    messages = [
        {"role": "system", "content": "Write in standard form."},
        {"role": "user", "content": "two kilos"},
    ]
    file.write_text(json.dumps({"prompt": messages}) + "\n")
    row = json.loads(written(capsys, run, "--file", file))
    assert row["completion"] == written(capsys, run, "--prompt=two kilos")


def test_a_table_that_generate_has_written_is_read_as_it_was(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "two kilos"}]
    file, table = tmp_path / "prompts.jsonl", tmp_path / "out.csv"
    file.write_text(json.dumps({"prompt": messages}) + "\n")
    written(capsys, run, "--file", file, "--output", table)
    table.write_text(table.read_text().replace("completion", "before"))
    again = json.loads(written(capsys, run, "--file", table))
    assert again["completion"] == again["before"]


@pytest.fixture(scope="module")
def run_on_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on bare text, of a model with 24 positions."""
    folder = tmp_path_factory.mktemp("runs") / "gpt2"
    model, file = folder.with_name("gpt2-model"), folder.with_name("mine.jsonl")
    fields = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24, "vocab_size": 260}
    GPT2LMHeadModel(GPT2Config(**fields, bos_token_id=1, eos_token_id=2)).save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    write_rows(file, *[{"prompt": "A?", "completion": "B."}] * 20)
    own = {"train_rows": None, "validation_rows": None, "max_length": 24, "target_r": "none"}
    assert train_texts(
        model, folder, f"--train_file={file}", **own, exact_match_rows=2, tinit=None, tfinal=None
    ) == 0  # fmt: skip
    return folder


def test_prompts_that_the_model_has_no_positions_for_are_refused(
    run_on_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "prompt 1 has 24 tokens, and the model reads 24 together with its answer"
    assert f"prompt: {said}" in refused(capsys, "generate", run_on_gpt2, f"--prompt={'a' * 24}")
    assert "prompt 1 is empty" in refused(capsys, "generate", run_on_gpt2, "--prompt=")
    file = write_rows(tmp_path / "prompts.jsonl", {"prompt": "b"}, {"prompt": "a" * 40})
    assert "file: prompt 2 has 40 tokens" in refused(
        capsys, "generate", run_on_gpt2, "--file", file
    )
    rows = write_rows(tmp_path / "rows.jsonl", {"prompt": "a" * 40, "completion": "b"})
    assert "file: prompt 1 has 40 tokens" in refused(
        capsys, "evaluate", run_on_gpt2, "--file", rows
    )


def test_a_long_prompt_ends_no_others_answer(
    run_on_gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "prompts.jsonl", {"prompt": "b"}, {"prompt": "a" * 22})
    command = (run_on_gpt2, "--file", file, "--max_new_tokens=9", "--batch_size")
    assert written(capsys, *command, "2") == written(capsys, *command, "1")


def test_an_answer_ends_at_the_last_position(
    run_on_gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (run_on_gpt2, f"--prompt={'a' * 20}", "--max_new_tokens")
    assert written(capsys, *command, "4") == written(capsys, *command, "40")


def test_temperature_draws(run, capsys):
    torch.manual_seed(0)
    command = (run, "--prompt=two kilos", "--temperature=1", "--max_new_tokens=30")
    assert written(capsys, *command) != written(capsys, *command)


def test_fewer_tokens_are_the_beginning_of_more(run):
    saved = load_saved_run(run)
    short, long = (
        next(generate(saved.model, saved.tokenizer, ["two kilos"], max_new_tokens=tokens))
        for tokens in (3, 12)
    )
    assert long.startswith(short.rstrip("�"))


def test_typed_lines_are_answered_until_the_input_ends(run, monkeypatch, capsys):
    lines = iter(["two kilos", "  ", "half a litre"])

    def typed(question: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", typed)
    answers = written(capsys, run).split("\n", 1)[1]
    expected = [written(capsys, run, f"--prompt={text}") for text in ("two kilos", "half a litre")]
    assert answers.rstrip("\n") == "\n".join(expected)


def test_prompts_are_padded_in_front(run):
    batch = encode(byte_tokenizer(), ["a", "abc"])
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_messages_get_no_second_start_token():
    one = encode(byte_tokenizer(), [[{"role": "user", "content": "a"}]])
    assert one["input_ids"][0].tolist().count(1) == 2  # the user's and the assistant's


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompt=a", "--file=b.jsonl"], "not both"),
        ([], "--prompt or --file"),
        (["--prompt=a", "--output=b.jsonl"], "--file"),
        (["--file=nowhere.jsonl"], "nowhere.jsonl"),
        (["--file=b.jsonl", "--output=no/such/folder/x.jsonl"], "no/such/folder"),
        (["--prompt=a", "--temperature=-1"], "temperature=-1"),
        (["--prompt=a", "--max_new_tokens=0"], "'0' is not a whole number"),
        (["--prompt=a", "--batch_size=0"], "'0' is not a whole number"),
    ],
    ids=str,
)
def test_generate_refuses(arguments, named, run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert named in refused(capsys, "generate", run, *arguments)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"text": "a"}\n', "no column 'prompt'"),
        ('{"prompt": 3}\n', "prompt is 3 in row 1"),
        ('{"prompt": [{"role": "user"}]}\n', "prompt is"),
        ('{"prompt": "a", "tools": [{"type": "function"}]}\n', "'tools' beside its messages"),
    ],
)
def test_files_that_cannot_be_answered(content, named, run, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    assert named in refused(capsys, "generate", run, "--file", file)


def test_a_run_of_labels_does_not_write(finished_run, capsys):
    assert "lora2 predict" in refused(capsys, "generate", finished_run, "--prompt=a")
