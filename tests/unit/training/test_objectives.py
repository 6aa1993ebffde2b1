"""Every objective answers what a run, its options and the commands ask of it."""

from typing import get_args

import pytest

from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.errors import UserError
from lora2.training.checks.option_effects import reason_against
from lora2.training.objectives.objective import Objective
from lora2.training.objectives.registry import OBJECTIVES, objective_of
from lora2.training.objectives.sft import SupervisedFineTuning
from lora2.training.options.named_tasks import TASKS, NamedTasks, ObjectiveName
from lora2.training.options.recipes import GENERAL
from lora2_cli.commands import COMMANDS

each = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))


def test_every_name_has_one_objective_and_named_tasks() -> None:
    assert tuple(OBJECTIVES) == get_args(ObjectiveName) == tuple(TASKS)
    assert all(name == objective.name for name, objective in OBJECTIVES.items())
    names = [task for tasks in TASKS.values() for task in tasks.names]
    assert len(names) == len(set(names))


@each
def test_its_options_and_its_recipe_name_options_of_training(objective: Objective) -> None:
    known = {action.dest for action in TrainParser()._actions}
    assert objective.options <= known
    assert objective.recipe.keys() <= known
    assert all(GENERAL.get(name) != value for name, value in objective.recipe.items())


@each
def test_it_is_chosen_by_its_name_and_by_its_tasks(objective: Objective) -> None:
    tasks, parser = TASKS[objective.name], TrainParser()
    by_name = resolve(parser, [f"--objective={objective.name}"])
    assert (by_name.task, objective_of(by_name)) == (tasks.default, objective)
    for task in tasks.names:
        assert objective_of(resolve(parser, [f"--task={task}"])) is objective


def test_an_objective_without_a_default_task_asks_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "sft", NamedTasks())
    with pytest.raises(UserError, match=r"^objective: sft .* add --train_file or --dataset\.$"):
        resolve(TrainParser(), ["--objective=sft"])
    settings = resolve(TrainParser(), ["--objective=sft", "--train_file=mine.csv"])
    assert settings.folder.name == "mine"


def test_options_of_other_objectives_are_refused_for_what_the_model_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Other(SupervisedFineTuning):
        """Another objective of texts."""

        options = frozenset({"head_start"})

    labels, texts = (
        resolve(TrainParser(), [f"--objective={name}"]) for name in ("classification", "sft")
    )
    assert reason_against(labels, "packing") == "without --objective sft"
    assert reason_against(texts, "baseline") == "with --objective sft, which has no labels"
    other = Other()
    other.name = "other"
    monkeypatch.setitem(OBJECTIVES, "other", other)
    labelled = [each.name for each in OBJECTIVES.values() if "head_start" in each.options]
    reason = f"without --objective {' or '.join(labelled)}"
    assert reason_against(texts, "head_start") == reason


@each
def test_the_commands_for_its_runs_exist(objective: Objective) -> None:
    _, command, *_ = objective.output.command.split()
    assert command in COMMANDS
    assert f"`lora2 {command}`" in objective.output.instead


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ({"kind": "regression"}, "classification"),
        ({"form": "text"}, "sft"),
        ({"kind": "tags"}, "token-classification"),
    ],
)
def test_a_task_is_of_one_objective(task: dict[str, str], name: str) -> None:
    assert [each.name for each in OBJECTIVES.values() if each.trains_on(task)] == [name]
