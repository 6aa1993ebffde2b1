"""The table of importance scores is what config, command line and allocator read."""

import pytest
import torch
from torch import Tensor

from lora2 import Lora2Config, RankAllocator, UserError
from lora2.commands.train_parser import TrainParser
from lora2.mathematics.importance import IMPORTANCES, ImportanceScore
from lora2.tuners.lora2.factor_table import FACTORS
from unit.pruning import pruned_model

each = pytest.mark.parametrize("name", IMPORTANCES)


@each
def test_a_formula_gives_one_score_a_singular_value(name: str) -> None:
    formula, symbols, source = IMPORTANCES[name]
    sizes = {"d_in": 5, "d_out": 4, "k": 3, "r": 2}
    shapes = [FACTORS[symbol].shape(**sizes) for symbol in symbols]
    assert formula(*(torch.rand(7, *shape) for shape in shapes)).shape == (7, 2)
    assert source


def test_the_command_line_has_all_as_choices_and_explains_them() -> None:
    (action,) = (each for each in TrainParser()._actions if each.dest == "importance")
    assert list(action.choices or ()) == list(IMPORTANCES)
    for name, importance in IMPORTANCES.items():
        assert f"'{name}' ({importance.source})" in str(action.help)


def only_lambda(S_lam: Tensor) -> Tensor:
    return S_lam


def test_a_new_entry_is_all_that_config_and_allocator_need(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"importance='lambda' .* choose one of 'reduced', 'full'"):
        Lora2Config(importance="lambda")
    monkeypatch.setitem(IMPORTANCES, "lambda", ImportanceScore(only_lambda, ("lam",), "a test"))
    allocator = RankAllocator(pruned_model(importance="lambda"), 20)
    for group in allocator._importance.groups:
        assert all(state.shape == group.importance().shape for state in group.state.values())
