"""The other commands, and YAML files of options."""

import pytest

from unit.campaign.case import Case, cases_in
from unit.campaign.runs import Runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", cases_in("train_config", "commands"))
def test_command(case: Case, runs: Runs, tmp_path):
    case.run(runs, tmp_path)
