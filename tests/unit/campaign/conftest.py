"""The runs that the campaign's cases share."""

from collections.abc import Iterator

import pytest

from unit.campaign.runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Tiny runs of several kinds; do not write into them."""
    made = Runs(tmp_path_factory.mktemp("campaign") / "shared")
    yield made
    made.close()
