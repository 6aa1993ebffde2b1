"""Checks that torch.compile can do here what the options ask of it."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from transformers import TrainingArguments

from lora2.errors import UserError

_COMPILERS = ("g++", "clang++")
_BUILT_IN = "inductor"
# torch lists these backends whether or not they are installed.
_PACKAGES = {
    "openxla": "torch_xla",
    "openxla_eval": "torch_xla",
    "onnxrt": "onnxscript",
    "tensorrt": "torch_tensorrt",
    "tvm": "tvm",
}


def check_compiler(device: str) -> None:
    """Check that torch.compile can build its code for the device.

    Raises:
        UserError: on a CPU, there is no C++ compiler.
    """
    if device == "cuda":
        return
    candidates = [os.environ.get("CXX", ""), *_COMPILERS]
    if not any(shutil.which(name) for name in candidates if name):
        raise UserError(
            "compile: torch.compile needs a C++ compiler for the CPU, and neither g++ nor clang++ "
            "is installed here."
        )


def check_compilation(arguments: TrainingArguments) -> None:
    """Check that the trainer will be able to compile its model, if it is to.

    Raises:
        UserError: a backend that torch does not have here, or no compiler for its code.
    """
    if not arguments.torch_compile:
        return
    # Imported here, because it costs a second and few runs are compiled.
    from torch._dynamo import list_backends

    backend = str(arguments.torch_compile_backend)
    known = [
        name
        for name in list_backends(exclude_tags=())
        if name not in _PACKAGES or find_spec(_PACKAGES[name]) is not None
    ]
    if backend not in known:
        raise UserError(
            f"torch_compile_backend={backend} is not installed here; write one of "
            f"{', '.join(known)}."
        )
    if backend == _BUILT_IN:
        check_compiler(arguments.device.type)
