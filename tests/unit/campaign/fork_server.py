"""A process that imports everything once and runs `lora2` in a forked child for each request.

A process of its own, because PyTorch cannot train in a fork of a process that has trained, as the
one of the tests may have. Requests and results are JSON lines on standard input and output.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

# What the commands import late, by the names of the modules that the tiny runs need.
_IMPORTED_LATE = (
    "datasets",
    "matplotlib.backends.backend_agg",
    "pyarrow.parquet",
    "rich._emoji_codes",
    "sklearn.metrics",
    "torch._dynamo",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.sft_trainer",
)
KILLED = -9
_OUTPUT, _ERROR = 1, 2


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(_OUTPUT), "w", encoding="utf-8")
    # What an imported module prints would be taken for an answer.
    os.dup2(_ERROR, _OUTPUT)
    _import_everything()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers, flush=True)


def _import_everything() -> None:
    import lora2

    names = [module.name for module in pkgutil.walk_packages(lora2.__path__, "lora2.")]
    for name in (*names, *_IMPORTED_LATE):
        # Some need packages of extras.
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the words of a request in a child; return exit code, output and errors."""
    scratch = Path(request["scratch"])
    child = os.fork()
    if child == 0:
        os._exit(_child(request, scratch))
    code = _wait(child, request["seconds"])
    texts = {
        name: (scratch / name).read_bytes().decode("utf-8", "backslashreplace")
        for name in ("output", "errors")
    }
    return {"code": code, **texts}


def _wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return KILLED


def _child(request: dict[str, Any], scratch: Path) -> int:
    try:
        _redirect(request, scratch)
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        code = _call(request["words"])
        # As Python does when a process ends.
        sys.stdout.flush()
        sys.stderr.flush()
        return code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


def _call(words: list[str]) -> int:
    from lora2_cli.main import main

    sys.argv = ["lora2", *words]
    try:
        return main(words)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def _redirect(request: dict[str, Any], scratch: Path) -> None:
    """Replace the three standard streams, as a shell would."""
    (scratch / "input").write_text(request["input"], encoding="utf-8")
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    os.dup2(os.open(scratch / "input", os.O_RDONLY), 0)
    os.dup2(os.open(scratch / "output", flags), _OUTPUT)
    os.dup2(os.open(scratch / "errors", flags), _ERROR)
    if request["broken_pipe"]:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, _OUTPUT)
    encoding = request["encoding"]
    sys.stdin = _stream(0, "r", encoding, "strict")
    sys.stdout = _stream(_OUTPUT, "w", encoding, "strict")
    sys.stderr = _stream(_ERROR, "w", encoding, "backslashreplace")


def _stream(descriptor: int, mode: str, encoding: str, errors: str) -> TextIO:
    binary = open(descriptor, f"{mode}b", closefd=False)  # noqa: SIM115 (open until the end)
    return io.TextIOWrapper(binary, encoding, errors, line_buffering=descriptor == _ERROR)


if __name__ == "__main__":
    serve()
