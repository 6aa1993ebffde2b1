"""LoRA²."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from lora2.trainers.lora2_callback import Lora2Callback
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.adapted_parts import matrix_shapes
from lora2.training.methods.checked_options import lora2_config
from lora2.training.methods.method import Method, Options
from lora2.training.methods.starting import continue_from
from lora2.training.methods.wrapping import place, with_head, wrap
from lora2.training.options.arguments import option_names
from lora2.training.options.method_arguments import AdapterArguments
from lora2.tuners.base.token_rows.finding import count_numbers
from lora2.tuners.lora2.allocation.final_sizes import final_sizes
from lora2.tuners.lora2.config import Lora2Config
from lora2.tuners.lora2.factor_table import FACTORS
from lora2.tuners.lora2.matrix_size import MatrixSize


def _build(base: BaseModel, options: Options, steps: int) -> nn.Module:
    start = options.get("start_from")
    if start is not None:
        return continue_from(base, Path(start), options)
    return wrap(base.model, lora2_config(options, **with_head(base, options)))


def _count(model: PreTrainedModel, options: Options) -> int:
    adapter = lora2_config(options, **place(model, options))
    return sum(
        math.prod(factor.shape(d_in=d_in, d_out=d_out, k=size.k, r=size.r))
        for (d_out, d_in), size in _matrices(model, adapter)
        for factor in FACTORS.values()
    ) + count_numbers(model, adapter.trainable_token_indices)


def _final(model: PreTrainedModel, options: Options) -> tuple[int, int]:
    adapter = lora2_config(options, **place(model, options))
    rows = count_numbers(model, adapter.trainable_token_indices)
    fewest, most = final_sizes(adapter, [size for _, size in _matrices(model, adapter)])
    return fewest + rows, most + rows


def _matrices(
    model: PreTrainedModel, adapter: Lora2Config
) -> Iterator[tuple[tuple[int, int], MatrixSize]]:
    """Yield the shape of each matrix and the sizes that its change will have."""
    for name, shape in matrix_shapes(model, adapter).items():
        k, r, _ = adapter.asked_for(name)
        yield shape, MatrixSize.of(shape, k, r)


def _prunes(options: Options) -> bool:
    target, brings_r = options["target_r"], options["start_from"] is not None
    # A target above init_r is refused by the config, whose sentence names that mistake.
    return target is not None and (brings_r or target != options["init_r"])


METHOD = Method(
    name="lora2",
    label=Lora2Config.label,
    source="Zhang et al. 2024, arXiv 2408.06854",
    trains="P Λ Q of each matrix, Λ pruned to a global budget",
    formula="k (d_in + d_out) + 2 k r + r",
    build=_build,
    count=_count,
    final=_final,
    options=(*option_names(AdapterArguments), "start_from"),
    prunes=_prunes,
    may_have_penalty=lambda options: options["orthogonality"] == "penalty",
    callbacks=lambda: [Lora2Callback()],
    saves_wrapped=True,
    as_lora="written as one",
    as_lora2=lambda model, folder: model,
)
