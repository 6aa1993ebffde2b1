"""`lora2` in processes that DeepSpeed trains on a CPU, without the operation that it compiles."""

import sys

import deepspeed  # noqa: F401

from lora2_cli.main import main

# gloo sends the messages between the processes of one machine as well.
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]

if __name__ == "__main__":
    sys.exit(main())
