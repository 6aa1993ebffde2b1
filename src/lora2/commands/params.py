"""`lora2 params`: the size of an adapter, counted on a model without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig

from lora2.commands.parser import OptionParser
from lora2.config import Lora2Config
from lora2.errors import UserError
from lora2.training.adapters import count_parameters
from lora2.training.architectures import ARCHITECTURES, target_pattern
from lora2.training.methods.wrapping import wrap
from lora2.training.models import load_config


def execute(arguments: Sequence[str]) -> int:
    """Run the subcommand and return the exit code."""
    options = _parser().parse_args(list(arguments))
    if (options.arch is None) == (options.model is None):
        raise UserError("params: give either --arch or --model, and not both.")
    config = load_config(options.model) if options.arch is None else _known(options.arch)
    targets: Any = options.target_modules
    if targets is None:
        targets = target_pattern(config.model_type, options.weights)
    print(f"{count(config, targets, options.k, options.r):,}")
    return 0


def count(config: PretrainedConfig, targets: Any, k: int, r: int) -> int:
    """Return the adapter's parameters: k (d_in + d_out) + 2 k r + r for each adapted matrix."""
    if targets == ["all-linear"]:
        targets = "all-linear"
    adapter = Lora2Config(k=k, init_r=r, target_modules=targets)
    # Tensors on the meta device have a shape and no memory.
    with torch.device("meta"):
        adapted = wrap(AutoModel.from_config(config), adapter)
    return count_parameters(adapted)["adapter"]


def _known(name: str) -> PretrainedConfig:
    return AutoConfig.for_model(**ARCHITECTURES[name])


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="lora2 params",
        description="Count the parameters of an adapter (without the head); no weights are loaded.",
    )
    parser.add_argument("--arch", choices=list(ARCHITECTURES), help="a known architecture")
    parser.add_argument("--model", help="or the folder or hub name of a model")
    parser.add_argument(
        "--weights",
        default="all",
        help="matrices by the paper's names Q,K,V,O,F1,F2, with commas (default: all)",
    )
    parser.add_argument(
        "--target_modules", "--target-modules", nargs="+", help="or names of modules"
    )
    parser.add_argument("--k", type=int, default=8, help="width of the outer pair (default: 8)")
    parser.add_argument("--r", type=int, default=8, help="singular values a matrix (default: 8)")
    return parser
