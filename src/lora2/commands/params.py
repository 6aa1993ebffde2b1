"""`lora2 params`: the size of an adapter, counted on a model without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from lora2.commands.option_parser import OptionParser
from lora2.commands.option_values import NUMBERS, or_none, read_mapping_or_file
from lora2.commands.run_options import add_model
from lora2.errors import UserError
from lora2.reports.numbers_in_words import size_in_words
from lora2.support.ranges import check_number
from lora2.training.base_models.architectures import ARCHITECTURES, target_pattern
from lora2.training.base_models.models import load_config
from lora2.training.checks.named_modules import check_named_modules
from lora2.training.checks.option_ranges import RANGES
from lora2.training.methods.rank_options import with_rank_option
from lora2.training.methods.registry import METHODS
from lora2.training.methods.wrapping import one_word
from lora2.training.options.arguments import RunSettings
from lora2.training.options.idle_options import refuse_idle
from lora2.tuners.base.config.field_checks import check_regular_expression
from lora2.tuners.lora2.config import BudgetUnit

_CLASSIFIERS = (
    (MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification),
    (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModelForImageClassification),
)
# Options of `lora2 train`; None leaves the method's default.
_SIZES = ("k", "init_r", "bottleneck_size", "virtual_tokens")
_OTHERS = ("target_parameters", "peft_config")
_BUDGET = ("target_r", "budget_unit")


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    parser = _parser()
    options = parser.parse_args(list(arguments))
    _check(options.method, parser.typed(arguments))
    if (options.arch is None) == (options.model is None):
        raise UserError("params: give either --arch or --model, and not both.")
    config = load_config(options.model) if options.arch is None else _known(options.arch)
    targets: Any = options.target_modules
    if targets is None:
        pattern = target_pattern(config.model_type, options.weights)
        targets = None if pattern is None else [pattern]
    given = {name: getattr(options, name) for name in (*_SIZES, *_OTHERS)}
    sizes = {name: value for name, value in given.items() if value is not None}
    sizes["target_modules"] = targets
    parameters = count(config, options.method, sizes)
    if not parameters and METHODS[options.method].from_peft:
        raise UserError(
            f"method: {options.method} trains nothing with these options; say in --peft_config "
            "what it is to train."
        )
    said = [f"{parameters:,}"]
    if options.target_r is not None:
        budget = {name: getattr(options, name) for name in _BUDGET}
        size = size_in_words(final(config, options.method, sizes | budget))
        said.append(f"at the end: {size}")
    print(*said, sep="\n")
    return 0


def _check(method: str, typed: Mapping[str, Any]) -> None:
    """Check sizes, and that each option has an effect."""
    for name in (*_SIZES, *_OTHERS):
        if name in RANGES and typed.get(name) is not None:
            check_number(name, typed[name], RANGES[name])
        if name not in METHODS[method].options:
            refuse_idle(typed, [name], with_rank_option(METHODS[method], name))
    if METHODS[method].final is None:
        refuse_idle(typed, _BUDGET, f"with --method {method}")
    if typed.get("target_r") is None:
        refuse_idle(typed, ["budget_unit"], "without --target_r")
    if "target_modules" not in METHODS[method].options:
        refuse_idle(typed, ("weights", "target_modules"), f"with --method {method}")
    if "target_modules" in typed:
        refuse_idle(typed, ("weights",), "with --target_modules")
        for pattern in one_word({"target_modules": typed["target_modules"]}).values():
            if isinstance(pattern, str):
                check_regular_expression("target_modules", pattern)


def count(config: PretrainedConfig, method: str, options: Mapping[str, Any]) -> int:
    """Return the trained parameters by the method's formula, for options of `lora2 train`."""
    return METHODS[method].count(*_placed(config, method, options))


def final(config: PretrainedConfig, method: str, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the fewest and the most parameters that pruning leaves, as a LoRA."""
    bounds = METHODS[method].final
    assert bounds is not None
    return bounds(*_placed(config, method, options))


def _placed(
    config: PretrainedConfig, method: str, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model without weights, and the options of the adapter on it."""
    chosen = METHODS[method]
    # The method's defaults of the schedule are left out: sizes do not depend on it.
    defaults = {"init_r": chosen.defaults["init_r"]} if "init_r" in chosen.defaults else {}
    settings = RunSettings.from_options({**defaults, **options})
    chosen.check(settings.adapter)
    model = _without_weights(config)
    check_named_modules(model, chosen, settings.adapter)
    return model, settings.adapter


def _without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """Return the pretrained model that a classifier has, without its head and without memory."""
    # Tensors on the meta device have a shape and no memory.
    with torch.device("meta"):
        for known, auto_model in _CLASSIFIERS:
            if type(config) in known:
                # Not every classifier has the pooler of its plain model.
                return auto_model.from_config(config).base_model
        return AutoModel.from_config(config)


def _known(name: str) -> PretrainedConfig:
    return AutoConfig.for_model(**ARCHITECTURES[name])


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 params",
        description="Count what a method trains without the head; no weights are loaded.",
    )
    parser.add_argument("--arch", choices=list(ARCHITECTURES), help="a known architecture")
    add_model(parser, "or the folder or hub name of a model")
    parser.add_argument(
        "--method", choices=list(METHODS), default="lora2", help="what is trained (default: lora2)"
    )
    parser.add_argument(
        "--weights",
        default="all",
        help="matrices by the paper's names Q,K,V,O,F1,F2, with commas (default: all)",
    )
    parser.add_argument("--target_modules", nargs="+", help="or names of modules")
    parser.add_argument(
        "--target_parameters",
        nargs="*",
        help="names of parameters, such as experts.down_proj of a mixture of experts",
    )
    parser.add_argument(
        "--k", type=int, help="width of LoRA²'s outer pair, rank of LoRA and SoRA (default: 8)"
    )
    parser.add_argument(
        "--init_r",
        "--r",
        type=int,
        help="singular values a matrix, of LoRA² (default: 8) and AdaLoRA (default: 12)",
    )
    parser.add_argument(
        "--target_r",
        type=or_none(NUMBERS[float]),
        help="singular values that a matrix keeps on average: the size at the end, as a LoRA, is "
        "counted too",
    )
    parser.add_argument(
        "--budget_unit",
        choices=get_args(BudgetUnit),
        default="values",
        help="what target_r counts (default: values)",
    )
    parser.add_argument("--bottleneck_size", type=int, help="of bottleneck (default: 8)")
    parser.add_argument("--virtual_tokens", type=int, help="of prompt (default: 20)")
    parser.add_argument(
        "--peft_config",
        type=read_mapping_or_file,
        help="of peft and PEFT's other methods: a JSON file, or a JSON object",
    )
    return parser
