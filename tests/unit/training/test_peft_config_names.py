"""Names in `peft_config`: of the type that PEFT reads, and of something in the model."""

from typing import Any

import pytest

from lora2.errors import UserError
from lora2.training.checks.named_modules import check_named_modules
from lora2.training.methods.registry import METHODS
from lora2.training.options.arguments import RunSettings
from unit.tiny_transformers import tiny_bert

# Method, fields, what the sentence says.
OF_ANOTHER_TYPE = [
    ("lokr", {"modules_to_save": [1]}, "modules_to_save is a list, and must be a list in which"),
    ("hira", {"target_modules": [["query"]]}, "target_modules is a list"),
    ("randlora", {"target_modules": [1]}, "target_modules is a list"),
    ("lokr", {"exclude_modules": [1]}, "exclude_modules is a list"),
    ("lokr", {"layers_to_transform": ["a"]}, "layers_to_transform is a list"),
    ("lokr", {"layers_to_transform": [0.5]}, "layers_to_transform is a list"),
    ("lokr", {"layers_pattern": [1]}, "layers_pattern is a list"),
    ("ia3", {"feedforward_modules": [1]}, "feedforward_modules is a list"),
    ("trainable_tokens", {"token_indices": ["a"]}, "token_indices is a list"),
    ("loha", {"rank_pattern": {"query": "x"}}, "each value is a whole number"),
    ("loha", {"alpha_pattern": {"query": "x"}}, "each value is a number"),
    ("delora", {"lambda_pattern": {"query": "x"}}, "each value is a number"),
    ("waveft", {"n_frequency_pattern": {"query": 0.5}}, "each value is a whole number"),
    ("c3a", {"block_size_pattern": {"query": 0.5}}, "each value is a whole number"),
    ("oft", {"bias": "x"}, "bias is 'x', and must be one of 'none', 'all', 'oft_only'"),
    ("peft", {"peft_type": "LORA", "target_parameters": [1]}, "target_parameters is a list"),
]


def checked(method: str, fields: dict[str, Any]) -> None:
    options = RunSettings.from_options({"method": method, "peft_config": fields}).adapter
    METHODS[method].check(options)
    check_named_modules(tiny_bert(), METHODS[method], options)


@pytest.mark.parametrize(("method", "fields", "said"), OF_ANOTHER_TYPE)
def test_an_entry_of_another_type_is_refused(method: str, fields: dict, said: str) -> None:
    with pytest.raises(UserError, match=r"^peft_config: ") as raised:
        checked(method, fields)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("peft", {"peft_type": "LORA", "target_parameters": ["nothing"]}),
        ("peft", {"peft_type": "LORA", "target_parameters": [""]}),
        ("peft", {"peft_type": "LORA", "exclude_modules": ["nothing"]}),
        ("lokr", {"exclude_modules": [""]}),
        ("lokr", {"layers_to_transform": [9]}),
        ("delora", {"lambda_pattern": {"nothing": 1.5}}),
        ("waveft", {"n_frequency_pattern": {"nothing": 8}}),
        ("c3a", {"block_size_pattern": {"nothing": 2}}),
    ],
)
def test_a_name_of_nothing_is_refused(method: str, fields: dict) -> None:
    name = list(fields)[-1]
    with pytest.raises(UserError, match=f"^{name}=.* (chooses|excludes) no "):
        checked(method, fields)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("peft", {"peft_type": "LORA", "target_parameters": ["query.weight"]}),
        ("peft", {"peft_type": "LORA", "exclude_modules": ["value"]}),
        ("lokr", {"layers_to_transform": [0]}),
        ("delora", {"lambda_pattern": {"query": 1.5}}),
        ("osf", {"rank_pattern": {"query": 0.5}}),
    ],
)
def test_a_name_of_something_is_accepted(method: str, fields: dict) -> None:
    checked(method, fields)
