"""summary.json: what a finished run has reached, how large it is and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lora2.support.checked_files import check_fields, read_json
from lora2.support.files import write_json_atomically
from lora2.training.on_disk.run_files import DAMAGED
from lora2.training.options.run_arguments import MethodName

# When a key is written; a key without such a mark always is.
_IF_KNOWN = {"written": "if known"}
_IF_TRAINED = {"written": "if trained"}

_REACHED = {"best": dict | None, "last": dict | None}


# A plain `dict` keeps the sentence on a damaged file short.
@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The keys of summary.json in their order; one with a default may be missing in the file.

    Attributes:
        task: the name of what was trained on.
        model: the name or folder of the base model.
        method: what was trained.
        peft_config: what a method of PEFT was given; None of another method.
        main_metric: the metric that decides which evaluation is the best.
        best: the evaluation with the highest main metric; None if there is none.
        last: the last evaluation, likewise.
        before: what the model reached untrained; None if that was not measured.
        baseline: what the head alone reached, with its `parameters`; None if it was not trained.
        combined: the runs that were added up, with weights; None of a run that was trained.
        trainable_parameters: trained at the start, of the "adapter" and of the "head".
        final_parameters: left at the end, likewise.
        steps: optimizer steps.
        seconds: of training, since the run was last resumed.
        resumed_from_step: where it was last resumed; None if it never was.
        kept_singular_values: what LoRA² has left, by module.
        seed: of the training; None of a run that was added up.
        versions: of Python and the packages that decide what a run computes.
        saved_bytes: the size of the saved weights; None before they are saved.
    """

    task: str
    model: str = ""
    method: MethodName
    peft_config: dict | None = field(default=None, metadata=_IF_KNOWN)
    main_metric: str
    best: dict | None
    last: dict | None
    before: dict | None = None
    baseline: dict | None
    combined: list[dict] | None = field(default=None, metadata=_IF_KNOWN)
    trainable_parameters: dict[str, int] = field(default_factory=dict)
    final_parameters: dict[str, int]
    steps: int = field(default=0, metadata=_IF_TRAINED)
    seconds: float = field(default=0.0, metadata=_IF_TRAINED)
    resumed_from_step: int | None = field(default=None, metadata=_IF_TRAINED)
    kept_singular_values: dict[str, int] = field(default_factory=dict, metadata=_IF_TRAINED)
    seed: int | None = field(default=None, metadata=_IF_TRAINED)
    versions: dict[str, str] = field(default_factory=dict)
    saved_bytes: int | None = field(default=None, metadata=_IF_KNOWN)

    def write(self, path: Path) -> None:
        """Write the file, in one step."""
        keys = [key for key in fields(self) if self._writes(key)]
        write_json_atomically(path, {key.name: getattr(self, key.name) for key in keys})

    def _writes(self, key: Field[Any]) -> bool:
        if key.metadata == _IF_TRAINED:
            return self.combined is None
        return key.metadata != _IF_KNOWN or getattr(self, key.name) is not None

    @classmethod
    def read(cls, path: Path) -> RunSummary:
        """Return what the file holds, without keys that this version does not know.

        Raises:
            UserError: the file is damaged.
        """
        content = read_json(path, DAMAGED, nan_as_null=True)
        _check(content, path)
        known = {key.name for key in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})


def _check(content: Mapping[str, Any], path: Path) -> None:
    for optional in (False, True):
        check_fields(content, _types(optional), path, DAMAGED, optional=optional)
    metric = content["main_metric"]
    _check_reached(content, metric, path)
    if content.get("before"):
        measured = {metric: float | None}
        check_fields(content["before"], measured, f"{path}, before", DAMAGED, optional=True)
    if content["baseline"] is not None:
        check_baseline(content["baseline"], metric, path)


def _types(optional: bool) -> dict[str, Any]:
    """Return the types of the keys that may be missing, or of those that may not."""
    hints = get_type_hints(RunSummary)
    return {
        # A value that is not known has no key in the file, rather than null.
        key.name: _without_none(hints[key.name]) if key.metadata == _IF_KNOWN else hints[key.name]
        for key in fields(RunSummary)
        if optional == (key.default is not MISSING or key.default_factory is not MISSING)
    }


def _without_none(hint: Any) -> Any:
    (known,) = (part for part in get_args(hint) if part is not type(None))
    return known


def check_baseline(
    baseline: Mapping[str, Any], metric: str, path: Path, advice: str = DAMAGED
) -> None:
    """Check what the head alone reached.

    Raises:
        UserError: a key is missing or of another type.
    """
    check_fields(baseline, {"parameters": int, **_REACHED}, path, advice)
    _check_reached(baseline, metric, path, advice)


def _check_reached(
    reached: Mapping[str, Any], metric: str, path: Path, advice: str = DAMAGED
) -> None:
    for name in _REACHED:
        if reached[name] is not None:
            measured = {metric: float | None, "epoch": float | None}
            check_fields(reached[name], measured, f"{path}, {name}", advice)
