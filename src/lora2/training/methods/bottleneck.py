"""Bottleneck adapters (Houlsby), with the layer normalisations trained too, as in the paper."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lora2.training.base_models.models import BaseModel
from lora2.training.methods.adapted_parts import linear_shapes
from lora2.training.methods.method import AS_THEY_ARE, PLACE, Method, Options
from lora2.training.methods.wrapping import is_of_head, place, wrap_with_head
from lora2.training.options.arguments import option_names
from lora2.training.options.method_arguments import BottleneckArguments
from lora2.tuners.base.config.targets import SUBLAYER_OUTPUTS
from lora2.tuners.base.names.peft_names import ROWS
from lora2.tuners.base.token_rows.finding import count_numbers
from lora2.tuners.bottleneck import BottleneckConfig


def config(model: PreTrainedModel, options: Options) -> BottleneckConfig:
    """Return the config, without head and normalisations.

    Raises:
        UserError: an invalid value.
    """
    return BottleneckConfig(
        bottleneck_size=options["bottleneck_size"],
        activation=options["activation"],
        trainable_token_indices=options.get(ROWS),
        **place(model, options, SUBLAYER_OUTPUTS),
    )


def normalisations(model: PreTrainedModel) -> list[str]:
    """Return the names of the layer normalisations: those with weights, heads left out."""
    return [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and getattr(module, "weight", None) is not None
        and not is_of_head(name)
    ]


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    whole = [*(options.get("modules_to_save") or ()), *normalisations(base.model)]
    adapter = config(base.model, options)
    return wrap_with_head(base, adapter, {**options, "modules_to_save": whole})


def _count(model: PreTrainedModel, options: Options) -> int:
    m = options["bottleneck_size"]
    shapes = linear_shapes(model, config(model, options)).values()
    adapters = sum(2 * m * d + m + d for d, _ in shapes)
    return (
        adapters
        + count_numbers(model, options.get(ROWS))
        + sum(
            parameter.numel()
            for name in normalisations(model)
            for parameter in model.get_submodule(name).parameters()
        )
    )


METHOD = Method(
    name="bottleneck",
    label="bottleneck adapters",
    source="Houlsby et al. 2019, arXiv 1902.00751",
    trains="two layers of width m after each sub-layer, and the layer normalisations",
    formula="2 m d + m + d a sub-layer, 2 d a normalisation",
    build=_build,
    count=_count,
    options=(*option_names(BottleneckArguments), *PLACE, *AS_THEY_ARE),
    start="near",
    merges=False,
)
