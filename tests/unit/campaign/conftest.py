"""The runs that the campaign's cases share."""

import pytest

from forked_commands import ForkedCommands
from unit.campaign.runs import Runs


@pytest.fixture(scope="session")
def runs(forked: ForkedCommands, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Tiny runs of several kinds; do not write into them."""
    return Runs(tmp_path_factory.mktemp("campaign"), forked)
