"""`lora2 train` in two processes: what they print, write, and end with.

The first run is started by `torchrun`; other commands are forked as it would start them.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from command_line import lora2, save_tiny_model, saved_weights, small_options
from forked_commands import ForkedCommands, Outcome
from language_model import save_language_model, text_options

sys.path.insert(0, str(Path(__file__).parent))
from launched_command import SMALL, launched

pytestmark = pytest.mark.slow

FSDP_ON_CPU = Path(__file__).parent / "fsdp_on_cpu.py"
NAN_IN_ONE_PROCESS = Path(__file__).parent / "nan_in_one_process.py"


def train(
    forked: ForkedCommands, work: Path, *words: object, processes: int = 2, **more: object
) -> Outcome:
    """Run `lora2 train`, which has to end well."""
    outcome = forked.call(["train", *map(str, words)], work, processes=processes, **more)
    assert outcome.code == 0, outcome.errors[-3000:]
    return outcome


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder without dropout, whose random numbers depend on the number of processes."""
    return save_tiny_model(tmp_path_factory.mktemp("model"), dropout=0.0)


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    options = small_options(save_total_limit=8)
    done = launched(2, "--model", model, "--output_dir", folder, *options, *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "find_unused_parameters" not in done.stderr
    return folder, done.stdout


def test_one_process_prints_and_writes(run: tuple[Path, str]) -> None:
    folder, printed = run
    assert printed.count("8 steps of 8 rows") == 1
    assert printed.count(f"Written to {folder}") == 1
    assert printed.count("epoch 2, step 8") == 1
    assert (folder / "summary.json").exists()


def test_a_mistake_is_told_once(
    run: tuple[Path, str], model: Path, forked: ForkedCommands, tmp_path: Path
) -> None:
    words = ["train", f"--model={model}", f"--output_dir={run[0]}", *small_options(), *SMALL]
    done = forked.call(words, tmp_path, processes=2)
    assert done.code == 2
    assert done.errors.count("holds a finished run") == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_is_resumed_by_another_number_of_processes(
    processes: int, run: tuple[Path, str], forked: ForkedCommands, tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(run[0], folder)
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    for step in range(4, 9):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")
    done = train(forked, tmp_path, "--output_dir", folder, "--resume", processes=processes)
    assert ("gradient_accumulation_steps=2 keeps" in done.output) == (processes == 1)
    expected = saved_weights(run[0])
    for name, tensor in saved_weights(folder).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_fsdp_run_ends_as_one_process_and_is_resumed_bit_for_bit(
    form: str, run: tuple[Path, str], model: Path, forked: ForkedCommands, tmp_path: Path
) -> None:
    # accelerate 1.15 shards the embeddings of BERT twice unless the layers are named.
    config = {"transformer_layer_cls_to_wrap": ["BertLayer"], "state_dict_type": form}
    (tmp_path / "fsdp.json").write_text(json.dumps(config))
    options = [*small_options(save_total_limit=8), *SMALL, "--use_cpu=True"]
    sharded = ["--fsdp", "--fsdp_config", tmp_path / "fsdp.json"]
    folder = tmp_path / "sharded"
    where = "--model", model, "--output_dir"
    train(forked, tmp_path, *where, folder, *options, *sharded, program=str(FSDP_ON_CPU))
    expected, ended = saved_weights(run[0]), saved_weights(folder)
    assert ended.keys() == expected.keys()
    for name, tensor in ended.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    for step in range(5, 9):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint-{step}")

    train(forked, tmp_path, "--output_dir", folder, "--resume", program=str(FSDP_ON_CPU))

    assert all(torch.equal(tensor, ended[name]) for name, tensor in saved_weights(folder).items())


@pytest.mark.parametrize("method", ["lora2", "lora"])
def test_all_processes_stop_where_one_has_no_finite_loss(
    method: str, model: Path, forked: ForkedCommands, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    options = small_options(method=method)
    words = ["train", f"--model={model}", f"--output_dir={folder}", *options, *SMALL]
    done = forked.call(words, tmp_path, processes=2, program=str(NAN_IN_ONE_PROCESS))
    assert done.code != 0
    said = "The training loss of another process is NaN or infinite at step 3: "
    assert done.errors.count(said) == 1, done.errors[-3000:]
    assert said in json.loads((folder / "diverged.json").read_text())["error"]
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert saved == ["checkpoint-1", "checkpoint-2"]


def test_tags_are_learned_and_scored_as_in_one_process(
    model: Path, forked: ForkedCommands, tmp_path: Path
) -> None:
    words = ["the table is here", "a doctor is away .", "the doctors have tables near the doctor"]
    sentences = [words[number % 3].split() for number in range(39)]
    rows = [{"tokens": s, "tags": ["B-thing" if len(w) > 4 else "O" for w in s]} for s in sentences]
    # Seven rows to score, which two processes cannot share.
    for name, some in (("train", rows[:32]), ("test", rows[32:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    options = [
        "--objective=token-classification", f"--model={model}", "--use_cpu=True",
        f"--train_file={tmp_path / 'train.jsonl'}", f"--validation_file={tmp_path / 'test.jsonl'}",
        "--k=2", "--init_r=4", "--target_r=2", "--tinit=1", "--tfinal=3", "--max_length=32",
        "--num_train_epochs=2", "--learning_rate=0.05", "--head_learning_rate=0.05",
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    sizes = "--per_device_train_batch_size=8", "--per_device_eval_batch_size=4"
    assert lora2("train", *options, *sizes, f"--output_dir={one}") == 0
    halves = "--per_device_train_batch_size=4", "--per_device_eval_batch_size=2"
    train(forked, tmp_path, *options, *halves, f"--output_dir={two}")
    expected = saved_weights(one)
    for name, tensor in saved_weights(two).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-4)
    names = ("f1", "precision", "recall", "accuracy")
    ends = [json.loads((run / "summary.json").read_text())["last"] for run in (one, two)]
    assert 0 < ends[0]["f1"] < 1
    assert [ends[0][name] for name in names] == [ends[1][name] for name in names]
    # Rows that fill up the last batch of a process are not counted twice.
    assert ends[1]["validation_loss"] == pytest.approx(ends[0]["validation_loss"], rel=1e-4)


def test_preferences_are_learned_and_scored_as_in_one_process(
    forked: ForkedCommands, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    base = save_language_model(tmp_path / "model")
    options = text_options(
        objective="dpo", per_device_train_batch_size=4, per_device_eval_batch_size=2,
        learning_rate=0.01, num_train_epochs=1, tinit=1, tfinal=1, max_length=160,
    )  # fmt: skip
    words = ["--objective=dpo", f"--model={base}", "--use_cpu=True", *options]
    accumulated = ["--gradient_accumulation_steps=2", f"--output_dir={one}"]
    assert lora2("train", *words, *accumulated) == 0
    train(forked, tmp_path, *words, f"--output_dir={two}")
    expected = saved_weights(one)
    for name, tensor in saved_weights(two).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    first, second = (json.loads((run / "summary.json").read_text())["last"] for run in (one, two))
    for name in ("rewards/accuracies", "rewards/margins", "validation_loss"):
        assert second[name] == pytest.approx(first[name], rel=1e-4), name
    assert first["rewards/margins"] != 0
