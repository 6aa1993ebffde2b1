"""Loads pretrained models, from a folder, a package or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from peft import TaskType
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from lora2.errors import UserError
from lora2.training.base_models.architectures import ARCHITECTURES, HUB_NAMES
from lora2.training.base_models.loading_errors import as_user_error
from lora2.training.base_models.sources import (
    OWN_CODE,
    ModelSource,
    check_is_whole_model,
    find_model,
)
from lora2.training.base_models.weight_digest import weight_digest
from lora2.training.quiet import quiet_loading
from lora2.tuners.base.finite_checks import check_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# These models read `cls_dropout`, which their configurations do not declare.
_DEBERTA = ("deberta", "deberta-v2")
HEAD_OF_DECODERS = "score"
"""The name of the head with which transformers' decoders classify."""


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model for one task, with a head for it if it is one of labels.

    Attributes:
        new_modules: names of the modules that the checkpoint has no weights for.
        task_type: what PEFT calls the task.
        digest: what `weight_digest` returned when the model was loaded.
    """

    model: PreTrainedModel
    new_modules: tuple[str, ...]
    task_type: TaskType | None = TaskType.SEQ_CLS
    digest: str | None = None


class HeadKind(NamedTuple):
    """A kind of head for labels.

    Attributes:
        auto_model: transformers' class that loads a model with one.
        task_type: what PEFT calls its task, if it has a name.
    """

    auto_model: Any
    task_type: TaskType | None


TEXT_LABELS = HeadKind(AutoModelForSequenceClassification, TaskType.SEQ_CLS)
WORD_LABELS = HeadKind(AutoModelForTokenClassification, TaskType.TOKEN_CLS)
IMAGE_LABELS = HeadKind(AutoModelForImageClassification, None)


def load_config(name: str, **values: Any) -> PretrainedConfig:
    """Return the configuration of a model, with the given fields replaced.

    Raises:
        UserError: there is no such model.
    """
    source = find_model(name)
    check_is_whole_model(source)
    with quiet_loading(), as_user_error(name, source):
        return AutoConfig.from_pretrained(
            source.location, **OWN_CODE, **source.file_option, **values
        )


def config_of_sizes(name: str) -> PretrainedConfig:
    """Return a configuration with the model's sizes; of the known models without reading a file.

    Raises:
        UserError: a model that is not known here cannot be loaded.
    """
    known = next((each for each, hub_name in HUB_NAMES.items() if name == hub_name), None)
    return load_config(name) if known is None else AutoConfig.for_model(**ARCHITECTURES[known])


def set_classifier_dropout(config: PretrainedConfig, probability: float | None) -> None:
    """Set the dropout before the classifier in a model's configuration; None leaves it as it is.

    Raises:
        UserError: no probability, or a model whose configuration has no such field.
    """
    if probability is None:
        return
    if not 0 <= probability < 1:
        raise UserError(f"classifier_dropout={probability} must be in [0, 1).")
    if config.model_type in _DEBERTA:
        config.cls_dropout = probability
    elif hasattr(config, "classifier_dropout"):
        config.classifier_dropout = probability
    else:
        raise UserError(
            f"classifier_dropout={probability}: the configuration of this model "
            f"({config.model_type}) has no dropout before the classifier; leave the option out."
        )


def load_base_model(
    name: str, config: PretrainedConfig, dtype: str, kind: HeadKind = TEXT_LABELS
) -> BaseModel:
    """Load a model with the head that `config` asks for; a head of another size is initialized.

    Raises:
        UserError: there is no such model, or its weights do not fit its configuration.
        NumericalError: its weights hold NaN or infinity.
    """
    source = find_model(name)
    if source.gguf_file is not None:
        raise UserError(
            f"model: {name} is a language model in a GGUF file, which cannot be given a head for "
            "labels; add --objective sft, or give the folder of a transformers model."
        )
    check_is_whole_model(source)
    if config.architectures:
        # A distilled image model's (DeiT, LeViT) class with two heads returns no loss.
        config.architectures = [each.removesuffix("WithTeacher") for each in config.architectures]
    model, missing, mismatched = _loaded(
        kind.auto_model, name, source, config=config, dtype=getattr(torch, dtype)
    )
    encoder = [key for key in model.state_dict() if _is_of_encoder(model, key)]
    absent = [key for key in missing if _is_of_encoder(model, key)]
    if len(absent) > len(encoder) // 2 or any(_is_of_encoder(model, key) for key in mismatched):
        raise UserError(
            f"model: the weights of {name} do not fit its config.json ({absent[0]} is missing or "
            "of another size); give the folder of a complete model."
        )
    _check_finite(model, name)
    new_modules = tuple(sorted({key.rpartition(".")[0] for key in missing}))
    return BaseModel(model, new_modules, kind.task_type, weight_digest(model, new_modules))


def load_language_model(name: str, dtype: str, **more: Any) -> BaseModel:
    """Load a causal language model; one in a GGUF file is taken out of its blocks.

    Args:
        name: a folder, a hub name, a GGUF file or a package's name.
        dtype: a floating point type of torch, or "auto" for the checkpoint's.
        more: options of transformers' `from_pretrained`.

    Raises:
        UserError: there is no such model, or its weights do not fit its configuration.
        NumericalError: its weights hold NaN or infinity.
    """
    source = find_model(name)
    check_is_whole_model(source)
    options: dict[str, Any] = {**source.file_option, **more}
    # Newer versions of transformers keep the blocks otherwise, which cannot be trained.
    if source.gguf_file is not None and hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model, absent, _ = _loaded(
        AutoModelForCausalLM, name, source, dtype=getattr(torch, dtype, dtype), **options
    )
    if absent:
        raise UserError(
            f"model: the weights of {name} are not those of a causal language model "
            f"({model.config.model_type}; {sorted(absent)[0]} is missing or of another size); give "
            "one that was trained to write."
        )
    _check_finite(model, name)
    return BaseModel(model, (), TaskType.CAUSAL_LM, weight_digest(model, ()))


def _loaded(
    auto_model: Any, name: str, source: ModelSource, **options: Any
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """Load a model by one of transformers' classes.

    Returns:
        The model, the names of the weights that its files do not have or have of another size, and
        the names of those of another size alone.

    Raises:
        UserError: transformers cannot load it.
    """
    with quiet_loading(), as_user_error(name, source):
        model, report = auto_model.from_pretrained(
            source.location,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **OWN_CODE,
            **options,
        )
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    return model, [*report["missing_keys"], *mismatched], mismatched


def _check_finite(model: PreTrainedModel, name: str) -> None:
    advice = (
        "its weights are damaged, or too large for --dtype float16; copy or download them again."
    )
    check_weights(dict(model.named_parameters()), f"the model {name}", advice)


def set_padding(model: PreTrainedModel, token: int | None) -> None:
    """Tell a decoder's classifier which token batches are padded with.

    It reads the last token that is not padding, and would read padding if that were another token.
    """
    if hasattr(model, HEAD_OF_DECODERS):
        for config in (model.config, model.config.get_text_config()):
            config.pad_token_id = token


def pads_behind(model: PreTrainedModel) -> bool:
    """Whether batches for a classifier can be padded behind the texts.

    In front of them, padding would shift the positions of a model that counts them by places, and
    what it computes of a text would depend on the others in its batch. A head that reads the last
    place, as XLNet's does, needs the text to end there.
    """
    summary = getattr(model.config, "summary_type", None)
    return not (hasattr(model, "sequence_summary") and summary == "last")


def _is_of_encoder(model: PreTrainedModel, key: str) -> bool:
    return key.startswith(f"{model.base_model_prefix}.")
