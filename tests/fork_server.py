"""A process that imports everything once and runs `lora2` in forked children for each request.

A process of its own, because PyTorch cannot train in a fork of a process that has trained, as the
one of the tests may have. Requests and results are JSON lines on standard input and output. A
request for several processes is answered as `torchrun` would start them, without its imports.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

# What the commands import late, by the names of the modules that the tiny runs need.
_IMPORTED_LATE = (
    "datasets",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
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
    _load_a_model()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers, flush=True)


def _import_everything() -> None:
    import lora2

    names = [module.name for module in pkgutil.walk_packages(lora2.__path__, "lora2.")]
    for name in (*names, *_IMPORTED_LATE):
        # Some need packages of extras.
        with suppress(ImportError):
            importlib.import_module(name)


def _load_a_model() -> None:
    """Load one, because transformers compiles its patterns of renamed weights for the first."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    with TemporaryDirectory() as folder:
        BertModel(BertConfig(**sizes)).save_pretrained(folder)
        BertModel.from_pretrained(folder)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the words of a request in children; return exit code, and their output and errors."""
    places = _environments(request["processes"])
    children: dict[int, Path] = {}
    for rank, environment in enumerate(places):
        scratch = Path(request["scratch"]) / str(rank)
        scratch.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            os._exit(_child(request, environment, scratch))
        children[child] = scratch
    code = _wait(set(children), request["seconds"])
    texts = {
        name: "".join(_text(scratch / name) for scratch in children.values())
        for name in ("output", "errors")
    }
    return {"code": code, **texts}


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace")


def _environments(processes: int) -> list[dict[str, str]]:
    """Return the variables that a launcher sets for each process; for one process it sets none."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
              "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}  # fmt: skip
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _wait(children: set[int], seconds: float) -> int:
    """Return the first exit code that is not 0, with which the others are killed, or 0."""
    end = time.monotonic() + seconds
    while children and time.monotonic() < end:
        for child in list(children):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                children.remove(child)
                if code := os.waitstatus_to_exitcode(status):
                    _kill(children)
                    return code
        time.sleep(0.005)
    _kill(children)
    return KILLED if children else 0


def _kill(children: set[int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _child(request: dict[str, Any], environment: dict[str, str], scratch: Path) -> int:
    try:
        _redirect(request, scratch)
        os.environ.update(environment | request["environment"])
        os.chdir(request["folder"])
        code = _call(request["words"], request["program"])
        # As Python does when a process ends.
        sys.stdout.flush()
        sys.stderr.flush()
        return code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1


def _call(words: list[str], program: str | None) -> int:
    from lora2_cli.main import main

    sys.argv = ["lora2", *words]
    try:
        if program is not None:
            runpy.run_path(program, run_name="__main__")
            return 0
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
