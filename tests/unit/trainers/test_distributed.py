"""Two processes on the CPU end as one: same adapter, same kept set."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from forked_commands import ForkedCommands
from unit import distributed_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, forked: ForkedCommands) -> Path:
    """The folder in which two processes left their adapters."""
    folder = tmp_path_factory.mktemp("distributed")
    script = str(distributed_run.__file__)
    done = forked.call([str(folder)], folder, processes=2, program=script)
    assert done.code == 0, done.errors[-3000:]
    return folder


def kept(state: dict[str, Tensor]) -> dict[str, list[bool]]:
    return {name: (t != 0).tolist() for name, t in state.items() if name.endswith(".lam")}


@pytest.mark.parametrize("loop", ["trainer", "accelerate"])
def test_both_ranks_end_with_the_same_adapter(loop: str, two_processes: Path) -> None:
    first, second = (
        load_file(two_processes / f"{loop}-{rank}-of-2.safetensors") for rank in (0, 1)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert kept(first) == kept(second)
    assert sum(map(sum, kept(first).values())) == 12


@pytest.mark.parametrize("loop", ["trainer", "accelerate"])
def test_two_processes_equal_one_with_the_joint_batch(
    loop: str, two_processes: Path, tmp_path: Path
) -> None:
    if loop == "trainer":
        expected = distributed_run.with_trainer(tmp_path, processes=1)
    else:
        expected = distributed_run.with_accelerate(processes=1, rank=0)
    actual = load_file(two_processes / f"{loop}-0-of-2.safetensors")
    assert kept(actual) == kept(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=1e-5, rtol=1e-5)
