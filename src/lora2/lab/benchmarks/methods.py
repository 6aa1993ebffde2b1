"""The methods that are compared, each put on a model of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.lab.benchmarks.adapted_models import (
    ADAPTER_NAME,
    ALPHA,
    adapted_modules,
    next_allocation,
    target_fields,
    with_adapter,
)
from lora2.lab.benchmarks.dense import make_dense
from lora2.lab.benchmarks.peft_methods import of_peft
from lora2.lab.benchmarks.shared_weights import copy_sharing_frozen_weights
from lora2.lab.benchmarks.trained_model import AdapterSize, BenchmarkMethod, TrainedModel
from lora2.lab.benchmarks.workloads import BatchSize, Workload
from lora2.support.error_text import in_one_sentence
from lora2.training.options.peft_registry import KINDS
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import lora2_layers
from lora2.tuners.lora2.saving import compact_adapter

_SEED = 0


def names_for(workload: Workload, names: Iterable[str]) -> list[str]:
    """Return the named methods but, of a model with experts, those that do not adapt them.

    Raises:
        UserError: none is left.
    """
    chosen = [
        name for name in names if ALL_METHODS[name].adapts_parameters or not workload.parameters
    ]
    if not chosen:
        known = [name for name, each in ALL_METHODS.items() if each.adapts_parameters]
        raise UserError(
            f"methods: none of them adapts the weights of {workload.name}'s experts; write some of "
            f"{', '.join(known)}."
        )
    return chosen


def prepare_all(
    base: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int, names: Iterable[str]
) -> dict[str, TrainedModel]:
    """Return every named method on a copy of the model; all copies share the frozen weights.

    Raises:
        UserError: the model has experts, and no method adapts their weights.
    """
    prepared = {}
    for name in names_for(workload, names):
        # Each method starts with the same random numbers.
        torch.manual_seed(_SEED)
        prepared[name] = ALL_METHODS[name].prepare(
            copy_sharing_frozen_weights(base), workload, size, steps
        )
        if name in KINDS:
            _try_step(name, prepared[name], workload)
    return prepared


def _try_step(name: str, trained: TrainedModel, workload: Workload) -> None:
    """Compute the gradient of one row: some of PEFT's methods say only then what they lack.

    Raises:
        UserError: the method cannot be trained like this.
    """
    size = BatchSize(1, min(4, workload.longest))
    batch = workload.batch(size, str(trained.parameters[0].device))
    with in_one_sentence(f"methods: {name} of PEFT cannot train here", "leave it out"):
        trained.loss(batch).backward()
    trained.model.zero_grad(set_to_none=True)


def _floor(
    model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
) -> TrainedModel:
    # Any adapter forces this and no more: a gradient of the output of each adapted matrix.
    for name in adapted_modules(model, workload, size):
        model.get_submodule(name).register_forward_hook(_require_gradient)
    return TrainedModel(model)


def _require_gradient(module: nn.Module, args: Any, output: Tensor) -> None:
    if not output.requires_grad:
        output.requires_grad_(True)


def _lora(
    model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
) -> TrainedModel:
    config = LoraConfig(r=size.k, lora_alpha=ALPHA, **target_fields(workload, size))
    adapted = with_adapter(model, config)
    return TrainedModel(adapted, adapted)


def _adalora(
    model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
) -> TrainedModel:
    config = AdaLoraConfig(
        init_r=round(1.5 * size.k),
        target_r=size.k,
        lora_alpha=ALPHA,
        # The budget falls in every step.
        tinit=0,
        tfinal=0,
        total_step=steps + 1,
        **target_fields(workload, size),
    )
    adapted = with_adapter(model, config)
    # The penalty is added in the tuner's forward, which PeftModel without a task type goes past.
    return TrainedModel(adapted.base_model, adapted, next_allocation(adapted))


def _lora2(orthogonality: str, *, allocates: bool, dense: bool = False) -> Any:
    def prepare(
        model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
    ) -> TrainedModel:
        config = Lora2Config(
            k=size.k,
            init_r=size.r,
            target_r=size.r / 2 if allocates else None,
            lora_alpha=ALPHA,
            orthogonality=orthogonality,  # type: ignore[arg-type]
            # The budget falls in every step.
            tinit=0,
            tfinal=0,
            **target_fields(workload, size),
        )
        adapted = with_adapter(model, config)
        if dense:
            make_dense(adapted)
        if not allocates:
            return TrainedModel(adapted, adapted)
        allocator = RankAllocator(adapted, steps + 1, ADAPTER_NAME)
        return TrainedModel(adapted, adapted, allocator.step, allocator)

    return prepare


def _half_empty(*, compact: bool) -> Any:
    """An adapter whose pruning left nothing to every second matrix, trained on.

    compact: whether the adapter is finished; if not, the zeros are still in memory.
    """

    @torch.no_grad()
    def prepare(
        model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
    ) -> TrainedModel:
        config = Lora2Config(
            k=size.k, init_r=size.r, lora_alpha=ALPHA, **target_fields(workload, size)
        )
        adapted = with_adapter(model, config)
        for layer in list(lora2_layers(adapted, ADAPTER_NAME).values())[::2]:
            layer.parameters_of(ADAPTER_NAME)["lam"].zero_()
        if compact:
            compact_adapter(adapted, ADAPTER_NAME)
        return TrainedModel(adapted, adapted)

    return prepare


_ALL = (
    BenchmarkMethod("floor", "no adapter", _floor),
    BenchmarkMethod("lora", "PEFT LoRA", _lora, adapts_parameters=True),
    BenchmarkMethod("adalora", "PEFT AdaLoRA", _adalora),
    BenchmarkMethod("lora2", "LoRA²", _lora2("exact", allocates=True), adapts_parameters=True),
    BenchmarkMethod(
        "lora2-penalty", "LoRA² penalty", _lora2("penalty", allocates=True), adapts_parameters=True
    ),
    BenchmarkMethod(
        "lora2-bare", "LoRA² neither", _lora2("none", allocates=False), adapts_parameters=True
    ),
    BenchmarkMethod(
        "lora2-half", "LoRA² half empty", _half_empty(compact=True), adapts_parameters=True
    ),
    BenchmarkMethod("lora2-dense", "LoRA² dense", _lora2("penalty", allocates=True, dense=True)),
)

BENCHMARK_METHODS: dict[str, BenchmarkMethod] = {method.name: method for method in _ALL}
"""What is measured unless methods are named."""

_ZEROS = BenchmarkMethod(
    "lora2-zeros", "LoRA² half zeros", _half_empty(compact=False), adapts_parameters=True
)

ALL_METHODS: dict[str, BenchmarkMethod] = {
    **BENCHMARK_METHODS,
    _ZEROS.name: _ZEROS,
    **{name: of_peft(kind) for name, kind in KINDS.items()},
}
"""With zeros that pruning leaves until it is over, and PEFT's other methods by their names."""
