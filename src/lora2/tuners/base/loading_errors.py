"""Why a saved adapter does not load, in one sentence: a damaged file, or another base model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.errors import OtherModelError, UserError
from lora2.support.checked_files import read_json
from lora2.support.error_text import in_one_sentence
from lora2.tuners.base.names.peft_names import PREFIX

DAMAGED = "restore the file from a copy, or train the adapter again"
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)"
)
_WHOLE_MODULE = ".modules_to_save."
# What says how large a model is, in the configuration that a run saves with its adapter.
_SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")


@contextmanager
def explained_errors(path: Path, base_model: nn.Module) -> Iterator[None]:
    """Load the adapter in `path` quietly; if it does not load, say which file or model is wrong."""
    sizes = _sizes_of(base_model)
    try:
        # PEFT warns of modules without weights, which here is an error, found later.
        what = f"the adapter in {path} cannot be loaded"
        with in_one_sentence(what, DAMAGED), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, NoMatchingPeftModuleError):
            raise UserError(
                f"the target_modules in {path / CONFIG_NAME} name no module of this model; give "
                "the model that the adapter was trained on, or restore the file."
            ) from error
        found = _MISMATCH.findall(str(cause))
        if found:
            raise _sizes_differ(path, found, sizes) from error
        if isinstance(cause, KeyError) and str(cause.args[0]).startswith(PREFIX):
            raise UserError(f"{path / WEIGHTS} lacks {cause.args[0]}; {DAMAGED}.") from error
        if isinstance(error, OtherModelError):
            raise OtherModelError(f"{str(error).rstrip('.')} ({path}).") from error
        if cause is None:
            raise UserError(
                f"{path / WEIGHTS} does not fit the {CONFIG_NAME} there: {error}"
            ) from error
        raise


def _sizes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _sizes_differ(
    path: Path, found: Sequence[tuple[str, str, str]], sizes: dict[str, tuple[int, ...]]
) -> UserError:
    """Blame the base model where a tensor differs in a size that the base weight has."""
    shapes = [(saved.split(", "), here.split(", ")) for _, saved, here in found]
    if all(_WHOLE_MODULE in name for name, _, _ in found) and all(
        saved[1:] == here[1:] for saved, here in shapes
    ):
        name, ((saved_first, *_), (here_first, *_)) = found[0][0], shapes[0]
        head = name.removeprefix(PREFIX).partition(_WHOLE_MODULE)[0]
        return UserError(
            f"model: the {head} in the adapter in {path} has {saved_first} outputs, and that of "
            f"this model {here_first}; give the labels, or the num_labels, that it was trained for."
        )
    for name, saved, here in found:
        module = name.removeprefix(PREFIX)
        while module and f"{module}.weight" not in sizes:
            module = module.rpartition(".")[0]
        of_base = sizes.get(f"{module}.weight", ())
        sides = (saved.split(", "), here.split(", "))
        if len(sides[0]) == len(sides[1]) and any(
            a != b and b.isdigit() and int(b) in of_base for a, b in zip(*sides, strict=True)
        ):
            return _of_another_base(path, f"{name} is [{saved}] in it, and [{here}] for this model")
    name, saved, here = found[0]
    return UserError(
        f"{path / WEIGHTS} does not fit the {CONFIG_NAME} there: {name} is [{saved}] in the file, "
        f"and [{here}] by the config; {DAMAGED}."
    )


def tensors_differ(
    model: PeftModel, path: Path, missing: Sequence[str], extra: Sequence[str]
) -> UserError:
    """Return why a file has not the tensors of its adapter: these missing, or these too many."""
    different = _different_size(model, path)
    if different is not None:
        return _of_another_base(path, different)
    if extra and not missing:
        module = _module_of(model, extra[0])
        if extra[0].startswith(PREFIX) and not _has_module(model, module):
            return _of_another_base(path, f"this model has no {module}")
        return UserError(
            f"{path / WEIGHTS} holds {extra[0]}, for which {CONFIG_NAME} has no place; {DAMAGED}."
        )
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return UserError(
        f"{path / WEIGHTS} lacks {missing[0]}{more}, which this model needs by {CONFIG_NAME}; "
        "restore both files from a copy, or give the model that the adapter was trained on."
    )


def _different_size(model: PeftModel, path: Path) -> str | None:
    """Return in which size the model differs from the configuration saved with the adapter."""
    # Only a run saves one.
    if not (path / MODEL_CONFIG).is_file():
        return None
    saved = read_json(path / MODEL_CONFIG, DAMAGED)
    for name in _SIZES:
        here = getattr(model.get_base_model().config, name, None)
        if None not in (saved.get(name), here) and saved[name] != here:
            return f"{name} is {saved[name]} in its config.json, and {here} in this model"
    return None


def _has_module(model: PeftModel, name: str) -> bool:
    return any(each == name for each, _ in model.get_base_model().named_modules())


def _module_of(model: PeftModel, tensor: str) -> str:
    """Return the module that an adapter's tensor belongs to: layer.query.lora_A.weight → query."""
    name = tensor.removeprefix(PREFIX)
    # Methods that train prompts have no prefix.
    of_method = PEFT_TYPE_TO_PREFIX_MAPPING.get(model.peft_type)
    return name if of_method is None else name.partition(f".{of_method}")[0]


def _of_another_base(path: Path, reason: str) -> OtherModelError:
    return OtherModelError(
        f"model: the adapter in {path} is of another base model ({reason}); give the model that it "
        "was trained on."
    )
