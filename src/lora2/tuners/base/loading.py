"""Loads a saved adapter so that every tensor in its file finds its place, or none does."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from peft.utils.error import NoMatchingPeftModuleError
from safetensors import SafetensorError, safe_open
from transformers.utils import CONFIG_NAME as MODEL_CONFIG

from lora2.errors import OtherModelError, UserError
from lora2.support.checked_files import check_fields, read_json
from lora2.support.error_text import in_one_sentence, reason_of
from lora2.tuners.base.config.target_config import TargetConfig
from lora2.tuners.base.finite_checks import check_factors, check_weights
from lora2.tuners.base.names.module_names import PREFIX
from lora2.tuners.base.token_rows.checks import check_rows

_DAMAGED = "restore the file from a copy, or train the adapter again"
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from "
    r"checkpoint, the shape in current model is torch\.Size\(\[(.*?)\]\)"
)
_WHOLE_MODULE = ".modules_to_save."
FIELDS_OF_PEFT = {
    "r": int,
    "lora_alpha": float,
    "lora_dropout": float,
    "alpha_pattern": dict,
    "rank_pattern": dict | None,
    "target_modules": list[str] | str | None,
    "exclude_modules": list[str] | str | None,
    "modules_to_save": list[str] | None,
    "trainable_token_indices": list[int] | dict[str, list[int]] | None,
    "layers_to_transform": list[int] | int | None,
}
"""Types of fields that PEFT's methods have in common; it does not check them."""
# What says how large a model is, in the configuration that a run saves with its adapter.
_SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")


def load_adapter(model: Any, path: Path, *, is_trainable: bool = False) -> PeftModel:
    """Put a saved adapter of any PEFT method on its base model.

    Raises:
        UserError: no adapter, a damaged one, or one of another base model; the sentence says which.
    """
    config = read_adapter_config(path)
    sizes = _sizes_of(model)
    check_rows(model, config)
    with _refusing(path, sizes):
        adapted = PeftModel.from_pretrained(
            model, str(path), config=config, is_trainable=is_trainable
        )
    check_loaded(adapted, path)
    return adapted


def add_adapter(model: PeftModel, path: Path, adapter_name: str) -> None:
    """Load a further adapter into a model that has one.

    Raises:
        UserError: as for `load_adapter`.
    """
    check_rows(model.get_base_model(), read_adapter_config(path))
    with _refusing(path, _sizes_of(model.get_base_model())):
        model.load_adapter(str(path), adapter_name)
    check_loaded(model, path, adapter_name)


def read_adapter_config(path: Path) -> PeftConfig:
    """Return the config of the adapter in a folder.

    Raises:
        UserError: the file is missing or damaged, or a value in it is not possible.
    """
    file = path / CONFIG_NAME
    content = read_json(file, _DAMAGED)
    check_fields(content, {"peft_type": str}, file, _DAMAGED)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(content["peft_type"])
    if kind is None:
        raise UserError(
            f"{file}: peft_type={content['peft_type']!r} is not a method that this version of PEFT "
            f"knows; {_DAMAGED}."
        )
    types = _nullable(FIELDS_OF_PEFT, kind)
    if issubclass(kind, TargetConfig):
        types = get_type_hints(kind)
        check_fields(content, dict.fromkeys(kind.needed_fields, object), file, _DAMAGED)
    check_fields(content, types, file, _DAMAGED, optional=True)
    try:
        with in_one_sentence(f"{file} cannot be loaded", _DAMAGED), warnings.catch_warnings():
            # PEFT names the fields of other versions, which it leaves out.
            warnings.simplefilter("ignore")
            return PeftConfig.from_pretrained(str(path))
    except UserError as error:
        if error.__cause__ is not None:
            raise
        raise UserError(f"{file}: {error}") from error


def _nullable(types: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return types of fields that may be null, too, where that is the default of a config."""
    defaults = {each.name: each.default for each in dataclasses.fields(kind)}
    return {
        name: hint | None if name in defaults and defaults[name] is None else hint
        for name, hint in types.items()
    }


def saved_tensors(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors in a file of weights, by name.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        fault = "is a folder, and must be a file" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {fault}; {_DAMAGED}.")
    try:
        # Opening checks that the file is as long as its header says.
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}); {_DAMAGED}.") from error


def check_loaded(model: PeftModel, path: Path, adapter_name: str = "default") -> None:
    """Check that a loaded adapter has the tensors of its file, all of them and no others.

    Raises:
        UserError: a tensor is missing, has no place, or is of another base model.
        NumericalError: it holds NaN or infinity.
    """
    saved = set(saved_tensors(path / WEIGHTS))
    # PEFT warns of matrices of which AdaLoRA kept nothing.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = get_peft_model_state_dict(
            model, adapter_name=adapter_name, save_embedding_layers=False
        )
    # PEFT saves the weight of an adapted or resized embedding with the adapter.
    of_base = {name for name in saved - set(loaded) if name in model.state_dict()}
    missing, extra = sorted(set(loaded) - saved), sorted(saved - of_base - set(loaded))
    if missing or extra:
        raise _tensors_differ(model, path, missing, extra)
    where = f"the adapter in {path}"
    check_weights(loaded, where, "copy its file again, or train it again.")
    check_factors(model, adapter_name, where)


def find_adapter(path: Path, option: str) -> Path:
    """Return the folder of an adapter: `path` itself if it is one, or within a finished run's.

    Raises:
        UserError: there is none; `option` is what gave the path.
    """
    is_run = (path / "adapter").is_dir() and not (path / CONFIG_NAME).is_file()
    folder = path / "adapter" if is_run else path
    for name in (CONFIG_NAME, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f"{option}: {path} holds no {name}; give the folder of an adapter or of a finished "
                "run."
            )
    return folder


@contextmanager
def _refusing(path: Path, sizes: dict[str, tuple[int, ...]]) -> Iterator[None]:
    """Load the adapter in `path` quietly; sizes: of the base model's weights, by name."""
    saved_tensors(path / WEIGHTS)
    try:
        # PEFT warns of modules without weights, which here is an error, found later.
        what = f"the adapter in {path} cannot be loaded"
        with in_one_sentence(what, _DAMAGED), warnings.catch_warnings():
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
            raise UserError(f"{path / WEIGHTS} lacks {cause.args[0]}; {_DAMAGED}.") from error
        if isinstance(error, OtherModelError):
            raise OtherModelError(f"{str(error).rstrip('.')} ({path}).") from error
        if cause is None:
            raise UserError(
                f"{path / WEIGHTS} does not fit the {CONFIG_NAME} there: {error}"
            ) from error
        raise


def _sizes_of(model: Any) -> dict[str, tuple[int, ...]]:
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
        f"and [{here}] by the config; {_DAMAGED}."
    )


def _tensors_differ(
    model: PeftModel, path: Path, missing: Sequence[str], extra: Sequence[str]
) -> UserError:
    different = _different_size(model, path)
    if different is not None:
        return _of_another_base(path, different)
    if extra and not missing:
        module = _module_of(model, extra[0])
        if extra[0].startswith(PREFIX) and not _has_module(model, module):
            return _of_another_base(path, f"this model has no {module}")
        return UserError(
            f"{path / WEIGHTS} holds {extra[0]}, for which {CONFIG_NAME} has no place; {_DAMAGED}."
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
    saved = read_json(path / MODEL_CONFIG, _DAMAGED)
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
