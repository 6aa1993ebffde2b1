"""Options without effect, out of range or with a late fault, and valid ones next to them."""

import pytest

from unit.campaign.case import Case, cases_in
from unit.campaign.runs import Runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", cases_in("train_options"))
def test_train(case: Case, runs: Runs, tmp_path):
    case.run(runs, tmp_path)
