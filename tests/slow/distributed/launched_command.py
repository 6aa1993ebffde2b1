"""`lora2 train` in several processes, started by `torchrun`."""

import os
import subprocess
import sys

# Half of the rows of a step for each of two processes.
SMALL = ("--per_device_train_batch_size=4", "--save_strategy=steps", "--save_steps=1")


def launched(
    processes: int, *words: object, program: tuple[str, ...] = ("-m", "lora2_cli")
) -> subprocess.CompletedProcess[str]:
    """`torchrun -m lora2_cli train`, with each process's output."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
            *program, "train", *map(str, words),
        ],
        capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
