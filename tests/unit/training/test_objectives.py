"""Every objective answers for itself, and has a recipe and a default task."""

from typing import get_args

import pytest

from lora2.training.arguments import DEFAULT_TASKS, ObjectiveName
from lora2.training.objectives.registry import OBJECTIVES
from lora2.training.recipes import BY_OBJECTIVE


def test_the_tables_have_the_same_objectives():
    names = set(get_args(ObjectiveName))
    assert OBJECTIVES.keys() == BY_OBJECTIVE.keys() == DEFAULT_TASKS.keys() == names


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_says_how_its_runs_are_used(name):
    objective = OBJECTIVES[name]
    assert objective.name == name
    assert objective.use.startswith("lora2 ")
    assert "use `lora2 " in objective.instead
    assert isinstance(objective.has_labels, bool)
