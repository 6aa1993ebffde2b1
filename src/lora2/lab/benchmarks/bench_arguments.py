"""The options of `lora2 bench` as a typed dataclass, checked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lora2.errors import UserError
from lora2.lab.benchmarks.methods import ALL_METHODS, BENCHMARK_METHODS
from lora2.lab.benchmarks.trained_model import AdapterSize
from lora2.lab.benchmarks.workloads import WORKLOADS, BatchSize, Workload
from lora2.support.files import check_may_be_folder
from lora2.support.ranges import COUNT, COUNT_OR_NONE, SIZE, Range, check_number

SWEEPS = ("k", "r", "matrices", "batch")
"""What grows in section `sweeps`, each by itself."""


_RANGES = {
    "rounds": COUNT,
    "warm_up": COUNT_OR_NONE,
    "threads": Range(0, 4097, whole_from=0),
    "batch_size": SIZE,
    "length": Range(2, SIZE.below, whole_from=2),
}


@dataclass
class BenchArguments:
    """What to measure, and on what."""

    models: str | None = field(
        default=None,
        metadata={
            "help": f"Models, with commas: {', '.join(WORKLOADS)} (random weights). Unless given, "
            "those that a section is meant for."
        },
    )
    methods: str = field(
        default=",".join(BENCHMARK_METHODS),
        metadata={
            "help": "Methods, with commas, of `steps` and `memory`; PEFT's others, "
            "too, by their names in `lora2 train --method`."
        },
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={"help": "Dtype of the frozen weights; the adapters' own stay float32."},
    )
    k: int = field(default=8, metadata={"help": "k of LoRA², rank of LoRA and AdaLoRA."})
    r: int = field(
        default=8,
        metadata={"help": "Singular values a matrix starts with in LoRA²; half are pruned."},
    )
    rounds: int = field(
        default=7, metadata={"help": "Rounds that are measured; in each, every method takes part."}
    )
    warm_up: int = field(default=1, metadata={"help": "Rounds before them that are not counted."})
    device: Literal["cpu", "cuda"] = field(
        default="cpu", metadata={"help": "Where to measure: the CPU or the first CUDA device."}
    )
    threads: int = field(default=0, metadata={"help": "CPU threads; 0 leaves the choice to torch."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Rows of a batch; unless given, by model, dtype, device."}
    )
    length: int | None = field(
        default=None, metadata={"help": "Tokens of a row; unless given, by model, dtype, device."}
    )
    sweep: str | None = field(
        default=None,
        metadata={"help": f"One of the sweeps alone: {', '.join(SWEEPS)}."},
    )
    output_dir: str = field(
        default="bench", metadata={"help": "Folder of the record and the chart."}
    )

    def check(self) -> None:
        """Check all that can be checked without a model.

        Raises:
            UserError: an unknown model or method, a number out of range, or no such device.
        """
        if self.models is not None:
            _check_known("models", self.models, WORKLOADS)
        _check_known("methods", self.methods, ALL_METHODS)
        if self.sweep not in (None, *SWEEPS):
            raise UserError(f"sweep: {self.sweep!r} is none of {', '.join(SWEEPS)}.")
        for name in ("k", "r"):
            check_number(name, getattr(self, name), SIZE)
        for name, allowed in _RANGES.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), allowed)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "device: there is no CUDA device here, or torch was built without CUDA; write "
                "--device cpu."
            )
        check_may_be_folder("output_dir", self.output_dir)

    def workloads(self, usual: Collection[str]) -> list[Workload]:
        """Return the models asked for, or else the usual ones of a section.

        Raises:
            UserError: one of them cannot read rows of that length.
        """
        names = list(usual) if self.models is None else _split(self.models)
        chosen = [WORKLOADS[name] for name in names]
        for workload in chosen:
            if self.length is not None and self.length > workload.longest:
                raise UserError(
                    f"length={self.length} is more than {workload.name} can read; write at most "
                    f"{workload.longest}."
                )
        return chosen

    @property
    def method_names(self) -> list[str]:
        """The methods asked for."""
        return _split(self.methods)

    @property
    def adapter(self) -> AdapterSize:
        """The size of the adapters."""
        return AdapterSize(self.k, self.r)

    @property
    def steps(self) -> int:
        """Training steps that each method takes."""
        return self.warm_up + self.rounds

    @property
    def turns(self) -> dict[str, Any]:
        """How the methods take turns, as arguments of `interleaved`."""
        return {"rounds": self.rounds, "warm_up": self.warm_up, "device": self.device}

    def size(self, workload: Workload) -> BatchSize:
        """The batch of a model: as asked for, or else the usual one."""
        usual = workload.size(self.device, self.dtype)
        return BatchSize(self.batch_size or usual.batch_size, self.length or usual.length)


def _check_known(option: str, text: str, known: Collection[str]) -> None:
    names = _split(text)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(
            f"{option}: {unknown[0] if unknown else text!r} is none of {', '.join(known)}; write "
            "some of them with commas."
        )


def _split(text: str) -> list[str]:
    """Names between commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
