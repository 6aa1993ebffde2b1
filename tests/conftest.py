"""What all tiers share."""

import signal
from collections.abc import Iterator

import pytest

from forked_commands import ForkedCommands


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C be heard: a process in the background of a shell inherits that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedCommands]:
    """Commands in children of a process that has imported everything."""
    commands = ForkedCommands(tmp_path_factory.mktemp("forked"))
    yield commands
    commands.close()
