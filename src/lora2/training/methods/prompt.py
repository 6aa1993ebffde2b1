"""Prompt tuning, PEFT's own: trained vectors in front of the embedded text."""

from __future__ import annotations

from peft import PromptTuningConfig
from transformers import PreTrainedModel

from lora2.errors import UserError
from lora2.training.base_models.models import HEAD_OF_DECODERS
from lora2.training.methods.method import Method, Options
from lora2.training.methods.wrapping import built_with


def config(model: PreTrainedModel, options: Options) -> PromptTuningConfig:
    """Return PEFT's config, without the head.

    Raises:
        UserError: a model that cannot tell text from padding.
    """
    if HEAD_OF_DECODERS in dict(model.named_children()):
        # PEFT hands over vectors in place of tokens, in which such a head finds no padding and
        # reads the last place of a row, be it padded or not.
        raise UserError(
            f"method: prompt tuning cannot classify with {model.config.model_type}, whose head "
            "reads the last token and would read padding; choose another method or an encoder."
        )
    return PromptTuningConfig(
        num_virtual_tokens=options["virtual_tokens"],
        # It may differ from the model's width, which PEFT would take.
        token_dim=model.get_input_embeddings().weight.shape[1],
    )


def _count(model: PreTrainedModel, options: Options) -> int:
    adapter = config(model, options)
    return adapter.num_virtual_tokens * adapter.token_dim


METHOD = Method(
    name="prompt",
    label="prompt tuning",
    source="Lester et al. 2021, arXiv 2104.08691",
    trains="vectors in front of the text",
    formula="tokens · d",
    build=built_with(config),
    count=_count,
    options=("virtual_tokens", "modules_to_save"),
    tokens_in_front=lambda options: int(options["virtual_tokens"]),
    start="other",
    merges=False,
)
