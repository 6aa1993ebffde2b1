"""`lora2` in processes in which accelerate shards on a CPU, where it uses DDP in place of FSDP."""

import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from lora2_cli.main import main

_initialize = AcceleratorState.__init__


def _initialize_with_fsdp(
    self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **named: Any
) -> None:
    _initialize(self, *args, fsdp_plugin=fsdp_plugin, **named)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _initialize_with_fsdp  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
