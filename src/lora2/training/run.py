"""One training run, from checked inputs to a finished run folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import Trainer, TrainerCallback, set_seed

from lora2.data.tasks.digests import DIGESTS, changed_set, digests_of
from lora2.data.tasks.task import rows_in_words
from lora2.errors import NumericalError, UserError
from lora2.exchange.model_card.file import write_run_card
from lora2.support.files import new_folder, write_json_atomically
from lora2.trainers.lora2_callback import Lora2Callback
from lora2.training.base_models.router_logits import without_router_logits
from lora2.training.base_models.weight_digest import BASE, is_of_other_weights
from lora2.training.methods.registry import method_of
from lora2.training.objectives.registry import objective_of
from lora2.training.on_disk.environment import describe_environment, versions
from lora2.training.on_disk.records import best_and_last, evaluation_records
from lora2.training.on_disk.run_clearing import clear_unwritten
from lora2.training.on_disk.run_commands import command_to_resume, command_to_start_over
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.run_start import write_start
from lora2.training.on_disk.start_adapter import check_same_start, start_digest
from lora2.training.on_disk.summary import RunSummary
from lora2.training.options.arguments import RunSettings
from lora2.training.options.run_arguments import HEAD_ALONE
from lora2.training.parameter_counts import count_final_parameters
from lora2.training.prepare import PreparedRun, prepare
from lora2.training.resuming import newest_checkpoint, why_not_resumed
from lora2.training.run_card import run_facts
from lora2.training.trainer.processes import in_first_process
from lora2.training.trainer.run_callbacks import Recorder, SaveAfterEvaluation
from lora2.training.trainer.whole_state import whole_state
from lora2.tuners.base.names.peft_names import PREFIX
from lora2.tuners.lora2.allocation.allocator import RankAllocator


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during training; the message says how to resume."""


Watch = Callable[[str, int], AbstractContextManager[TrainerCallback | None]]


def no_watch(title: str, steps: int) -> AbstractContextManager[TrainerCallback | None]:
    """Show no progress."""
    return nullcontext()


def train_head_alone(settings: RunSettings, watch: Watch = no_watch) -> dict[str, Any]:
    """Train the head on the frozen encoder and return what it reached; nothing is saved.

    For fewer epochs than the run: with a few hundred parameters it is soon where it stays, and an
    epoch of it costs a third of one of the run.
    """
    epochs, most = settings.run.baseline_epochs, settings.training.get("max_steps") or -1
    if most <= 0:
        epochs = min(epochs, settings.training["num_train_epochs"])
    training = settings.training | {
        "save_strategy": "no", "num_train_epochs": epochs, "max_steps": -1,
    }  # fmt: skip
    prepared = prepare(dataclasses.replace(settings, training=training), method=HEAD_ALONE)
    steps = min(prepared.steps, most) if most > 0 else prepared.steps
    if steps < prepared.steps:
        prepared.trainer.args.max_steps = steps
    with watch("head alone", steps) as callback:
        if callback is not None:
            prepared.trainer.add_callback(callback)
        try:
            prepared.trainer.train()
        except KeyboardInterrupt as error:
            raise _interrupted("while training the head alone", settings) from error
    return {
        "parameters": sum(prepared.parameters.values()),
        **_reached(prepared, prepared.trainer.state.log_history),
    }


def start_folder(prepared: PreparedRun) -> None:
    """Write what is known before training into the run folder."""
    if not prepared.trainer.is_world_process_zero():
        return
    write_start(
        prepared.folder,
        prepared.settings.to_options(),
        prepared.task.describe()
        | {"main_metric": prepared.main_metric, DIGESTS: digests_of(prepared.task)}
        | start_digest(prepared.settings)
        | ({} if prepared.base_digest is None else {BASE: prepared.base_digest}),
    )
    objective_of(prepared.settings).write_base(prepared.folder, prepared.settings)
    write_environment(prepared)


def check_same_inputs(prepared: PreparedRun) -> None:
    """Check that a run that is resumed reads the rows, and the weights, that it started with.

    Raises:
        UserError: naming the set, the base model or the adapter that has changed.
    """
    try:
        stored = prepared.folder.read_task()
    except UserError:
        # A resumed run reads nothing else of this file, and commands that use the run report it.
        return
    start_over = f"start over with `{command_to_start_over(prepared.folder)}`"
    changed = changed_set(prepared.task, stored, prepared.task.sets)
    if changed is not None:
        raise UserError(
            f"resume: the {rows_in_words(changed)} are not those that the run in "
            f"{prepared.folder.path} was started with; bring them back, or {start_over}."
        )
    if is_of_other_weights(prepared.base_digest, stored):
        raise UserError(
            f"resume: the weights of {prepared.settings.model.model} are not those that the run in "
            f"{prepared.folder.path} was started with; bring them back, or {start_over}."
        )
    check_same_start(stored, prepared.settings, start_over)


def write_environment(prepared: PreparedRun, started_with: int | None = None) -> None:
    """Write environment.json.

    started_with: the number of processes that the run was started with, if it is resumed.
    """
    arguments = prepared.trainer.args
    run = {"seed": arguments.seed, "processes": started_with or arguments.world_size}
    write_json_atomically(prepared.folder.environment_file, run | describe_environment())


def run(
    prepared: PreparedRun, *, baseline: dict[str, Any] | None = None, watch: Watch = no_watch
) -> RunSummary:
    """Train to the end, from the newest complete checkpoint if there is one; save and summarise.

    Returns:
        What summary.json holds.

    Raises:
        RunInterrupted: on Ctrl-C.
        NumericalError: the run diverged, which is noted in its folder.
    """
    trainer, folder = prepared.trainer, prepared.folder
    settings = prepared.settings
    checkpoint, _ = newest_checkpoint(prepared)
    in_first_process(lambda: clear_unwritten(folder))
    trainer.add_callback(SaveAfterEvaluation())
    trainer.add_callback(Recorder(folder))
    if checkpoint is not None:
        # The run was evaluated when it was started, and a resumed run is not at its start.
        trainer.args.eval_on_start = False
    started = time.monotonic()
    with watch(settings.run.method, prepared.steps) as callback:
        if callback is not None:
            trainer.add_callback(callback)
        # A training before this one, such as that of the head alone, has drawn random numbers.
        set_seed(trainer.args.seed)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except KeyboardInterrupt as error:
            step = trainer.state.global_step
            when = f"at step {step} of {prepared.steps}"
            raise _interrupted(when, settings) from error
        except NumericalError as error:
            if trainer.is_world_process_zero():
                write_json_atomically(folder.divergence_file, {"error": str(error)})
            raise
    seconds = time.monotonic() - started
    try:
        return _finish(prepared, _summary(prepared, seconds, checkpoint, baseline))
    except KeyboardInterrupt as error:
        raise _interrupted("while the adapter was saved", settings) from error


def _finish(prepared: PreparedRun, summary: RunSummary) -> RunSummary:
    """Save the adapter, then the summary, with which the run counts as finished; return that."""
    folder, state = prepared.folder, whole_state(prepared.trainer)

    def finish() -> RunSummary:
        save_adapter(prepared, folder.adapter, summary, state)
        size = sum(file.stat().st_size for file in folder.adapter.glob("*.safetensors"))
        saved = dataclasses.replace(summary, saved_bytes=size)
        saved.write(folder.summary_file)
        folder.divergence_file.unlink(missing_ok=True)
        return saved

    return in_first_process(finish) or summary


def _interrupted(when: str, settings: RunSettings) -> RunInterrupted:
    folder = RunFolder(settings.folder)
    if why_not_resumed(settings) is None:
        return RunInterrupted(f"Interrupted {when}; resume with `{command_to_resume(folder)}`.")
    return RunInterrupted(f"Interrupted {when}; start over with `{command_to_start_over(folder)}`.")


def save_adapter(
    prepared: PreparedRun,
    path: Path,
    summary: RunSummary,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Save adapter (or whole model), tokenizer, model configuration and the adapter's card.

    state: the tensors of the model, where the model in memory has not all of them.
    """
    model: Any = prepared.trainer.accelerator.unwrap_model(prepared.trainer.model)
    # A killed process of the same run may have left files there.
    with new_folder(path, replaces=True) as temporary, without_router_logits(model):
        if isinstance(model, PeftModel):
            model.save_pretrained(
                str(temporary),
                state_dict=state,
                # A trainer may have added others, as TRL does with a reference.
                selected_adapters=[model.active_adapter],
                save_embedding_layers=False,
            )
            write_run_card(model, temporary, run_facts(prepared, summary))
            base: Any = model.get_base_model()
            base.config.save_pretrained(temporary)
        else:
            model.save_pretrained(temporary, state_dict=state)
        prepared.preprocessor.save_pretrained(temporary)


def _summary(
    prepared: PreparedRun, seconds: float, checkpoint: Path | None, baseline: dict[str, Any] | None
) -> RunSummary:
    trainer = prepared.trainer
    model = trainer.accelerator.unwrap_model(trainer.model)
    return RunSummary(
        task=prepared.task.name,
        model=prepared.settings.model.model,
        method=prepared.settings.run.method,
        peft_config=_peft_config(prepared.settings),
        main_metric=prepared.main_metric,
        **_reached(prepared, trainer.state.log_history),
        before=_before(trainer.state.log_history),
        baseline=baseline,
        trainable_parameters=prepared.parameters,
        final_parameters=count_final_parameters(model, prepared.head),
        steps=trainer.state.global_step,
        seconds=round(seconds, 1),
        resumed_from_step=int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
        kept_singular_values=_kept_by_module(trainer),
        seed=trainer.args.seed,
        versions=versions(),
    )


def _peft_config(settings: RunSettings) -> dict[str, Any] | None:
    """Return what a method of PEFT was given; None of the others, whose options say it."""
    is_of_peft = method_of(settings).from_peft
    return (settings.adapter["peft_config"] or {}) if is_of_peft else None


def _reached(prepared: PreparedRun, history: list[dict[str, Any]]) -> dict[str, Any]:
    # The untrained model's metrics are not a result of the run.
    trained = [record for record in evaluation_records(history) if record["step"] > 0]
    found = best_and_last(trained, prepared.main_metric)
    return dict(zip(("best", "last"), found or (None, None), strict=True))


def _before(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the model reached untrained, if it was asked."""
    return next((record for record in evaluation_records(history) if record["step"] == 0), None)


def _kept_by_module(trainer: Trainer) -> dict[str, int]:
    allocators: list[RankAllocator] = [
        allocator
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, Lora2Callback)
        for allocator in callback.allocators.values()
    ]
    kept = allocators[0].kept_by_module() if allocators else {}
    return {name.removeprefix(PREFIX): count for name, count in kept.items()}
