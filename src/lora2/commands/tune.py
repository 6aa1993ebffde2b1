"""`lora2 tune`: the same number of trials for every method, to choose its learning rate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from transformers import HfArgumentParser

from lora2.commands.option_parser import OptionParser
from lora2.data.named_tasks import IN_FILES
from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.place_arguments import PlaceArguments
from lora2.lab.experiments.presets.task_suite import TUNING_SEED
from lora2.lab.experiments.rates import FILE_NAME, add_choice, read_choices
from lora2.lab.experiments.record import RecordFolder, RunRecord
from lora2.lab.experiments.rendering.choices import choices_table
from lora2.lab.experiments.running.display import display
from lora2.lab.experiments.running.feasibility import check_feasible
from lora2.lab.experiments.setting import Experiment
from lora2.lab.experiments.tune_arguments import ALL, TuneArguments, chosen_experiments
from lora2.lab.experiments.tuning import Choice, tune
from lora2.reports.console import new_console, print_table
from lora2.support.extras import require
from lora2.training.options.idle_options import refuse_idle


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code: 1 where no learning rate could be chosen."""
    parser = _TuneParser()
    method, tuning, where = parser.read(arguments)
    require("optuna", extra="tune")
    chosen = chosen_experiments(method, tuning.task, tuning.preset)
    check_feasible(
        [each.run(each.setting.search.first, TUNING_SEED) for each in chosen],
        where.place,
    )
    console = new_console()
    folder = where.records_of(tuning.preset)
    # A damaged file is found before anything is trained.
    read_choices(folder)
    choices, kept = _tune_all(chosen, tuning.trials, where, folder, console)
    print_table(console, choices_table(choices))
    unsettled = [choice.experiment for choice in choices if choice.learning_rate is None]
    if len(unsettled) + len(kept) < len(choices):
        path = folder / FILE_NAME
        console.print(f"Written: {path}", soft_wrap=True)
    if unsettled:
        names = ", ".join(unsettled)
        print(f"Nothing chosen: {names}. The same command tries again.", file=sys.stderr)
        return 1
    return 0


def _tune_all(
    chosen: list[Experiment], trials: int, where: PlaceArguments, folder: Path, console: Console
) -> tuple[list[Choice], list[str]]:
    """Return all choices, and the experiments whose stored choice of more trials was kept."""
    # Trials have a folder of their own, so that nobody takes one for a reported record.
    records = RecordFolder(folder / "tuning")
    done: list[Choice] = []
    kept: list[str] = []
    runs = trials * sum(experiment.setting.search.seeds for experiment in chosen)
    with display(console, "trials", runs) as shown:
        runner = where.runner(records, shown.step, shown.finish)

        def work(experiment: Experiment) -> Choice:
            def run(description: RunDescription) -> RunRecord:
                rate = description.options["learning_rate"]
                shown.entitle(description, f"{experiment.name} at learning rate {rate:g}")
                return runner.run(description)

            return tune(experiment, trials, TUNING_SEED, run)

        with runner:
            for choice in runner.each(work, chosen):
                done.append(choice)
                if choice.learning_rate is not None and not add_choice(folder, choice):
                    kept.append(choice.experiment)
    if kept:
        console.print(
            f"Not replaced, because {folder / FILE_NAME} has choices of more trials: "
            f"{', '.join(sorted(kept))}. Remove them there to choose again.",
            soft_wrap=True,
        )
    return sorted(done, key=lambda choice: choice.experiment), kept


class _TuneParser(OptionParser, HfArgumentParser):
    def __init__(self) -> None:
        super().__init__(
            prog="lora2 tune",
            usage="lora2 tune METHOD [options]",
            dataclass_types=[TuneArguments, PlaceArguments],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            description="Search the learning rate of a method in a preset, on one or two "
            "seeds that no table reports. A trial that has a record is not run again.",
        )
        self.add_argument(
            "method",
            metavar="METHOD",
            help=f"a method, one of its settings such as lora2-k1, or {ALL}",
        )

    def read(self, arguments: Sequence[str]) -> tuple[str, TuneArguments, PlaceArguments]:
        tuning, where, rest = self.parse_args_into_dataclasses(list(arguments))
        tuning.check()
        where.check()
        typed = self.typed(arguments)
        where.check_effects(typed)
        # Without a task, all of the preset are tuned.
        if tuning.task is not None and tuning.task not in IN_FILES:
            refuse_idle(typed, ("data_dir",), f"with --task {tuning.task}, which is generated")
        return rest.method, tuning, where
