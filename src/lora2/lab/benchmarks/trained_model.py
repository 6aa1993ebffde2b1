"""A method of the benchmarks, and a model that it has made ready to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora2.lab.benchmarks.workloads import Batch, Workload
from lora2.tuners.lora2.allocation.allocator import RankAllocator


@dataclass(frozen=True)
class AdapterSize:
    """How large the adapters are.

    Attributes:
        k: rank of LoRA, target rank of AdaLoRA, and k of LoRA².
        r: singular values a matrix starts with in LoRA²; half of them are pruned.
        layers: how many layers are adapted, from the first on; None for all.
    """

    k: int
    r: int
    layers: int | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to train.

    Attributes:
        model: the model with its trainable parameters.
        adapted: the PEFT model; None without adapter.
        after_step: called after each optimizer step, before the gradients are cleared.
        allocator: what prunes a LoRA² adapter, if anything does.
        call: what is called with a batch and returns a loss, if it is not the model itself.
    """

    model: nn.Module
    adapted: PeftModel | None = None
    after_step: Callable[[], object] = lambda: None
    allocator: RankAllocator | None = None
    call: Callable[..., Any] | None = None

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, penalties included."""
        # `or` would be wrong: a compiled module seems to have a length.
        call = self.model if self.call is None else self.call
        return call(**batch).loss

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]


@dataclass(frozen=True)
class BenchmarkMethod:
    """A way to train: `prepare` takes model, workload, size and number of steps at most.

    Attributes:
        adapts_parameters: whether it adapts weights of experts; where there are any, a method
            that does not is left out.
    """

    name: str
    label: str
    prepare: Callable[[PreTrainedModel, Workload, AdapterSize, int], TrainedModel]
    adapts_parameters: bool = False
