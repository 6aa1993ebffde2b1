"""SoRA; k is the rank that a matrix starts with."""

from __future__ import annotations

from transformers import PreTrainedModel

from lora2.trainers.sora_callback import SoraCallback
from lora2.training.methods.adapted_parts import linear_shapes
from lora2.training.methods.checked_options import shared_config
from lora2.training.methods.method import LOW_RANK, Method, Options
from lora2.training.methods.wrapping import built_with, place
from lora2.training.options.arguments import option_names
from lora2.training.options.method_arguments import SoraArguments
from lora2.tuners.base.names.peft_names import ROWS
from lora2.tuners.base.token_rows.finding import count_numbers
from lora2.tuners.sora import SoraConfig

_OWN = option_names(SoraArguments)


def config(model: PreTrainedModel, options: Options) -> SoraConfig:
    """Return the config, without the head.

    Raises:
        UserError: an invalid value.
    """
    checked = shared_config(options, SoraConfig.label)
    return SoraConfig(
        r=checked.k,
        lora_alpha=checked.lora_alpha,
        lora_dropout=checked.lora_dropout,
        trainable_token_indices=checked.trainable_token_indices,
        **{name: options[name] for name in _OWN},
        **place(model, options),
    )


def _count(model: PreTrainedModel, options: Options) -> int:
    k = options["k"]
    shapes = linear_shapes(model, config(model, options)).values()
    rows = count_numbers(model, options.get(ROWS))
    return sum(k * (d_in + d_out) + k for d_out, d_in in shapes) + rows


METHOD = Method(
    name="sora",
    label=SoraConfig.label,
    source="Ding et al. 2023, arXiv 2311.11696",
    trains="B diag(g) A of each matrix, gates g driven to zero",
    formula="k (d_in + d_out) + k",
    build=built_with(config),
    count=_count,
    options=(*LOW_RANK, *_OWN),
    callbacks=lambda: [SoraCallback()],
    defaults={"lora_alpha": 16.0, "learning_rate": 8e-4},
    as_lora="written as one",
    # The step on the gates changes only the part of the parameter that one process has.
    shards=False,
)
