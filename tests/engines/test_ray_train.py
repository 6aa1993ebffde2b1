"""Two processes that Ray Train starts end with the adapter of one process."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unit import distributed_run

pytestmark = pytest.mark.engines

PROCESSES = 2


def train_loop(config: dict[str, Any]) -> None:
    """What each worker runs, in the process group that Ray has made."""
    import torch.distributed as dist
    from safetensors.torch import save_file

    from unit import distributed_run

    rank, folder = dist.get_rank(), Path(config["folder"])
    state = distributed_run.with_trainer(folder / "run", dist.get_world_size())
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(whole, folder / f"{rank}.safetensors")


# Ray 2.60 warns of options that it sets itself.
@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\..*")
def test_torch_trainer_ends_with_the_adapter_of_one_process(
    ray_cluster: Any, tmp_path: Path
) -> None:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    ray.init(ray_cluster.address, log_to_driver=False, runtime_env=environment)
    try:
        TorchTrainer(
            train_loop,
            train_loop_config={"folder": str(tmp_path)},
            scaling_config=ScalingConfig(num_workers=PROCESSES, resources_per_worker={"CPU": 0.5}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(storage_path=str(tmp_path / "ray")),
        ).fit()
    finally:
        ray.shutdown()
    expected = distributed_run.with_trainer(tmp_path / "one", processes=1)
    for rank in range(PROCESSES):
        state = load_file(tmp_path / f"{rank}.safetensors")
        assert state.keys() == expected.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
