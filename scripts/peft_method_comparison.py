"""Runs an experiment of PEFT's comparison of methods, LoRA² among them, and writes its result.

    python scripts/peft_method_comparison.py scripts/peft_comparison/recipes/lora2/llama-3.2-3B-k32

docs/how-to/peft-comparison.md says what is measured and where the result goes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from peft.utils import infer_device
from transformers import set_seed

from lora2.commands.error_sentences import as_sentence
from lora2.commands.output_file import check_output
from lora2.errors import UserError
from lora2.support.files import (
    check_is_new,
    check_may_be_folder,
    write_json_atomically,
)
from lora2.training.base_models.preprocessors import load_tokenizer
from lora2_cli.main import INTERRUPTED, USER_MISTAKE, hide_warnings_for_developers
from peft_comparison.experiment import Experiment, read_experiment
from peft_comparison.memory import Memory
from peft_comparison.model import build_model
from peft_comparison.result import Status, now, result, result_path
from peft_comparison.sizes import parameter_counts, saved_size
from peft_comparison.task_data import TaskData, load_metamath, read_folder
from peft_comparison.training import Progress, Training


def main(words: Sequence[str] | None = None) -> int:
    """Run one experiment, and return the exit code."""
    options = _parser().parse_args(words)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        sentence = as_sentence(error)
        if sentence is None:
            raise
        print(f"peft_method_comparison: {sentence}", file=sys.stderr)
        return USER_MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", type=Path, help="folder METHOD/VARIANT of the two configs")
    parser.add_argument("--model", help="folder or name, in place of the experiment's model_id")
    parser.add_argument(
        "--data_dir", type=Path, help="train.jsonl, validation.jsonl and test.jsonl of your own"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/peft-comparison"))
    parser.add_argument("--keep_adapter", type=Path, help="a new folder for the trained adapter")
    parser.add_argument("--overwrite", action="store_true", help="replace an older result")
    parser.add_argument("-v", "--verbose", action="store_true", help="say how the training goes")
    return parser


def _run(options: argparse.Namespace) -> int:
    clock, created_at = time.perf_counter(), now()
    experiment = read_experiment(options.experiment, options.model)
    _check_outputs(options, experiment.name)
    data = load_metamath() if options.data_dir is None else read_folder(options.data_dir)
    training = _prepared(experiment, data, options.verbose)
    progress = Progress(*parameter_counts(training.model))
    stopped: BaseException | None = None
    try:
        training.run(progress)
    # What was done until then is written, too.
    except (Exception, KeyboardInterrupt) as error:
        stopped = error
    progress.stop_clock()
    status: Status = "success" if stopped is None else "canceled"
    content = result(
        training,
        progress,
        status=status,
        error=_said_of(stopped),
        created_at=created_at,
        file_size=saved_size(training.model, options.keep_adapter if stopped is None else None),
        total_time=time.perf_counter() - clock,
    )
    path = result_path(options.output_dir, experiment.name, status, created_at)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, content)
    print(f"{status}: {path}")
    if stopped is not None:
        raise stopped
    return 0


def _check_outputs(options: argparse.Namespace, name: str) -> None:
    """Check that what a training ends with can be written.

    Raises:
        UserError: something is there, or nothing can be made there.
    """
    path = result_path(options.output_dir, name, "success", now())
    check_may_be_folder("output_dir", path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    check_output(path, overwrite=options.overwrite)
    if options.keep_adapter is not None:
        check_is_new(options.keep_adapter, name="keep_adapter")


def _prepared(experiment: Experiment, data: TaskData, speaks: bool) -> Training:
    set_seed(experiment.train.seed)
    device = infer_device()
    memory = Memory(device)
    tokenizer = load_tokenizer(experiment.train.model_id)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model: the tokenizer of {experiment.train.model_id} has no end token, which each "
            "text is to end with; give another model."
        )
    model = build_model(experiment, tokenizer, device)

    def report(line: str) -> None:
        if speaks:
            print(line, file=sys.stderr, flush=True)

    training = Training(experiment, data, model, tokenizer, device, memory, report)
    training.check_generation()
    return training


def _said_of(stopped: BaseException | None) -> str:
    if isinstance(stopped, KeyboardInterrupt):
        return "manually canceled"
    return "" if stopped is None else str(stopped)


if __name__ == "__main__":
    hide_warnings_for_developers()
    sys.exit(main())
