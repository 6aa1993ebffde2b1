"""Two processes under DeepSpeed ZeRO on a CPU: same kept set, same adapter as one process."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "slow" / "distributed"))
import engine_table
from engine_table import FORMS, ZERO, Row

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all trainings are."""
    path = tmp_path_factory.mktemp("zero")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        engine_table.run_zero(path)
    return path


def test_every_stage_ends_as_one_process(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = engine_table.table_of_zero(folder)
    with capsys.disabled():
        print("\n" + engine_table.as_text(rows))
    for engine in ZERO:
        for form in FORMS:
            expected = Row(*["yes"] * 6, *["DeepSpeed refuses"] * 2)
            assert rows[f"{engine}/{form}"] == expected, (engine, form)
