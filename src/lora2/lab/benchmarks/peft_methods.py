"""PEFT's other methods, as they are compared."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.lab.benchmarks.adapted_models import ALPHA, next_allocation, target_fields, with_adapter
from lora2.lab.benchmarks.trained_model import AdapterSize, BenchmarkMethod, TrainedModel
from lora2.lab.benchmarks.workloads import Workload
from lora2.support.error_text import in_one_sentence
from lora2.training.methods.peft_options import make_config
from lora2.training.options.peft_registry import PeftKind, field_names

# The r of these is the size of something that is not trained, a number of parts, or of parameters.
_R_IS_NO_RANK = ("adamss", "psoft", "pvera", "randlora", "shira", "tinylora", "vera")


def of_peft(kind: PeftKind) -> BenchmarkMethod:
    """Return a method of PEFT's registry, at rank k if it has a rank, and else as PEFT has it."""

    def prepare(
        model: PreTrainedModel, workload: Workload, size: AdapterSize, steps: int
    ) -> TrainedModel:
        # PEFT's default differs by method: 64 for MiSS, 32 for HiRA. OFT's 0 is no rank.
        has_rank = bool(getattr(kind.config_type, "r", 0)) and kind.name not in _R_IS_NO_RANK
        fields: dict[str, Any] = {"r": size.k} if has_rank else {}
        if issubclass(kind.config_type, LoraConfig):
            fields["lora_alpha"] = ALPHA
        known, targets = field_names(kind.config_type), target_fields(workload, size)
        if size.layers is None:
            del targets["layers_to_transform"]
        if missing := targets.keys() - known:
            raise UserError(f"methods: {kind.name} of PEFT has no {min(missing)}; leave it out.")
        options = targets | {"peft_config": fields}
        with in_one_sentence(
            f"methods: PEFT cannot put {kind.name} on {workload.name}", "leave it out"
        ):
            adapted = with_adapter(model, make_config(kind, options))
        if not kind.allocates:
            return TrainedModel(adapted, adapted)
        return TrainedModel(adapted, adapted, next_allocation(adapted))

    return BenchmarkMethod(kind.name, f"PEFT {kind.label}", prepare)
