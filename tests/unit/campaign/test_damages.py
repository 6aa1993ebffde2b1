"""Runs and adapters of which a file is damaged, before every command that takes one."""

import pytest

from unit.campaign.case import Case, cases_in
from unit.campaign.damage_grid import grid
from unit.campaign.runs import Runs


@pytest.mark.parametrize("case", grid())
def test_each_damage_before_each_command(case: Case, runs: Runs, tmp_path):
    case.run(runs, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases_in("adapters"))
def test_adapter_with_a_fault(case: Case, runs: Runs, tmp_path):
    case.run(runs, tmp_path)
