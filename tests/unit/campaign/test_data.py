"""Data of the user, what is written of them, and standard output."""

import pytest

from unit.campaign.case import Case, cases_in
from unit.campaign.runs import Runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", cases_in("data", "outputs"))
def test_data(case: Case, runs: Runs, tmp_path):
    case.run(runs, tmp_path)
