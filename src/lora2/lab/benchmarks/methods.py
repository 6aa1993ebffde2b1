"""The methods that are compared, each put on a model of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.config import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.lab.benchmarks.dense import make_dense
from lora2.lab.benchmarks.sharing import copy_sharing_frozen_weights
from lora2.lab.benchmarks.workloads import Batch, BatchSize, Workload
from lora2.support.error_text import in_one_sentence
from lora2.training.methods.peft_options import make_config
from lora2.training.options.peft_registry import KINDS, PeftKind, field_names
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.lora2.allocation.allocator import RankAllocator
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.layer import adapted_layers
from lora2.tuners.lora2.saving import compact_adapter

ADAPTER_NAME = "default"
_ALPHA = 16
_SEED = 0


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
        """What is trained."""
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


def prepare_all(
    base: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int, names: Iterable[str]
) -> dict[str, TrainedModel]:
    """Return every named method on a copy of the model; all copies share the frozen weights.

    Raises:
        UserError: the model has experts, and no method adapts their weights.
    """
    prepared = {}
    chosen = [
        name for name in names if ALL_METHODS[name].adapts_parameters or not workload.parameters
    ]
    if not chosen:
        known = [name for name, each in ALL_METHODS.items() if each.adapts_parameters]
        raise UserError(
            f"methods: none of them adapts the weights of {workload.name}'s experts; write some of "
            f"{', '.join(known)}."
        )
    for name in chosen:
        # Whoever comes second starts with the same numbers.
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


def adapted_modules(model: nn.Module, workload: Workload, size: AdapterSize) -> list[str]:
    """Return the names of the modules that a method adapts."""
    config = Lora2Config(**_targets(workload, size))
    return [n for n, _ in model.named_modules() if check_target_module_exists(config, n)]


def _require_gradient(module: nn.Module, args: Any, output: Tensor) -> None:
    if not output.requires_grad:
        output.requires_grad_(True)


def _lora(
    model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
) -> TrainedModel:
    config = LoraConfig(r=size.k, lora_alpha=_ALPHA, **_targets(workload, size))
    adapted = _wrap(model, config)
    return TrainedModel(adapted, adapted)


def _adalora(
    model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
) -> TrainedModel:
    config = AdaLoraConfig(
        init_r=round(1.5 * size.k),
        target_r=size.k,
        lora_alpha=_ALPHA,
        # The budget falls in every step.
        tinit=0,
        tfinal=0,
        total_step=steps + 1,
        **_targets(workload, size),
    )
    adapted = _wrap(model, config)
    tuner: Any = adapted.base_model
    # AdaLoRA takes no budget in step 0, hence the count from 1.
    completed = itertools.count(1)
    # The penalty is added in the tuner's forward, which PeftModel without a task type goes past.
    return TrainedModel(tuner, adapted, lambda: tuner.update_and_allocate(next(completed)))


def _lora2(orthogonality: str, *, allocates: bool, dense: bool = False) -> Any:
    def prepare(
        model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
    ) -> TrainedModel:
        config = Lora2Config(
            k=size.k,
            init_r=size.r,
            target_r=size.r / 2 if allocates else None,
            lora_alpha=_ALPHA,
            orthogonality=orthogonality,  # type: ignore[arg-type]
            # The budget falls in every step.
            tinit=0,
            tfinal=0,
            **_targets(workload, size),
        )
        adapted = _wrap(model, config)
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
        config = Lora2Config(k=size.k, init_r=size.r, lora_alpha=_ALPHA, **_targets(workload, size))
        adapted = _wrap(model, config)
        for layer in list(adapted_layers(adapted, ADAPTER_NAME).values())[::2]:
            layer.parameters_of(ADAPTER_NAME)["lam"].zero_()
        if compact:
            compact_adapter(adapted, ADAPTER_NAME)
        return TrainedModel(adapted, adapted)

    return prepare


def _targets(workload: Workload, size: AdapterSize) -> dict[str, Any]:
    layers = None if size.layers is None else list(range(size.layers))
    return {
        "target_modules": DEFAULT_TARGET_MODULES[workload.model_type],
        "layers_to_transform": layers,
        **({"target_parameters": list(workload.parameters)} if workload.parameters else {}),
    }


def _wrap(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    head = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adapted = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    # PEFT freezes all but the adapter; with `modules_to_save` it would copy the head.
    for parameter in head:
        parameter.requires_grad_(True)
    return adapted


# Their r is the size of something that is not trained, a number of parts, or of parameters.
_R_IS_NO_RANK = ("adamss", "psoft", "pvera", "randlora", "shira", "tinylora", "vera")


def _of_peft(kind: PeftKind) -> BenchmarkMethod:
    """Return a method of PEFT's registry, at rank k if it has a rank, and else as PEFT has it."""

    def prepare(
        model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
    ) -> TrainedModel:
        # PEFT's default differs by method: 64 for MiSS, 32 for HiRA. OFT's 0 is no rank.
        has_rank = bool(getattr(kind.config_type, "r", 0)) and kind.name not in _R_IS_NO_RANK
        fields: dict[str, Any] = {"r": size.k} if has_rank else {}
        if issubclass(kind.config_type, LoraConfig):
            fields["lora_alpha"] = _ALPHA
        known, targets = field_names(kind.config_type), _targets(workload, size)
        if size.layers is None:
            del targets["layers_to_transform"]
        if missing := targets.keys() - known:
            raise UserError(f"methods: {kind.name} of PEFT has no {min(missing)}; leave it out.")
        options = targets | {"peft_config": fields}
        with in_one_sentence(
            f"methods: PEFT cannot put {kind.name} on {workload.name}", "leave it out"
        ):
            adapted = _wrap(model, make_config(kind, options))
        tuner: Any = adapted.base_model
        if not kind.allocates:
            return TrainedModel(adapted, adapted)
        completed = itertools.count(1)
        return TrainedModel(adapted, adapted, lambda: tuner.update_and_allocate(next(completed)))

    return BenchmarkMethod(kind.name, f"PEFT {kind.label}", prepare)


_ALL = (
    BenchmarkMethod("floor", "no adapter", _floor),
    BenchmarkMethod("lora", "PEFT LoRA", _lora, True),
    BenchmarkMethod("adalora", "PEFT AdaLoRA", _adalora),
    BenchmarkMethod("lora2", "LoRA²", _lora2("exact", allocates=True), True),
    BenchmarkMethod("lora2-penalty", "LoRA² penalty", _lora2("penalty", allocates=True), True),
    BenchmarkMethod("lora2-bare", "LoRA² neither", _lora2("none", allocates=False), True),
    BenchmarkMethod("lora2-half", "LoRA² half empty", _half_empty(compact=True), True),
    BenchmarkMethod("lora2-dense", "LoRA² dense", _lora2("penalty", allocates=True, dense=True)),
)

BENCHMARK_METHODS: dict[str, BenchmarkMethod] = {method.name: method for method in _ALL}
"""What is measured unless methods are named."""

_ZEROS = BenchmarkMethod("lora2-zeros", "LoRA² half zeros", _half_empty(compact=False), True)

ALL_METHODS: dict[str, BenchmarkMethod] = {
    **BENCHMARK_METHODS,
    _ZEROS.name: _ZEROS,
    **{name: _of_peft(kind) for name, kind in KINDS.items()},
}
"""With zeros that pruning leaves until it is over, and PEFT's other methods by their names."""
