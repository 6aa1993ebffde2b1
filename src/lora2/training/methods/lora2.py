"""LoRA²."""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from lora2.trainers.lora2_callback import Lora2Callback
from lora2.training.base_models.models import BaseModel
from lora2.training.methods.checked_options import lora2_config
from lora2.training.methods.method import Method, Options
from lora2.training.methods.starting import continue_from
from lora2.training.methods.wrapping import (
    ALL_LAYER_KINDS,
    matrix_shapes,
    parameter_shapes,
    place,
    with_head,
    wrap,
)
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
        math.prod(
            factor.shape(d_in=d_in, d_out=d_out, k=min(adapter.k, d_in, d_out), r=adapter.init_r)
        )
        for d_in, d_out in _shapes(model, adapter)
        for factor in FACTORS.values()
    ) + count_numbers(model, adapter.trainable_token_indices)


def _shapes(model: PreTrainedModel, adapter: Lora2Config) -> list[tuple[int, int]]:
    return matrix_shapes(model, adapter, ALL_LAYER_KINDS, parameter_shapes(model, adapter))


def _final(model: PreTrainedModel, options: Options) -> tuple[int, int]:
    adapter = lora2_config(options, **place(model, options))
    rows = count_numbers(model, adapter.trainable_token_indices)
    fewest, most = final_sizes(adapter, _matrices(model, adapter))
    return fewest + rows, most + rows


def _matrices(model: PreTrainedModel, adapter: Lora2Config) -> list[MatrixSize]:
    return [
        MatrixSize(d_in + d_out, min(adapter.k, d_in, d_out), adapter.init_r)
        for d_in, d_out in _shapes(model, adapter)
    ]


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
