"""The trainer's options that are mappings: what is in them is checked before anything is loaded."""

from typing import Any

import pytest
import torch

from lora2.errors import UserError
from lora2.training.checks.mapping_options import check_mappings

CHECKPOINTING, ACCELERATOR = "activation_checkpointing_kwargs", "accelerator_config"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": (CHECKPOINTING, {"xx": 1}, "'xx' is not known; write one of use_reentrant"),
    "nearly known": (CHECKPOINTING, {"use_reentrent": True}, "write use_reentrant"),
    "a function": (CHECKPOINTING, {"context_fn": 3}, "'context_fn' is not known"),
    "a text": (CHECKPOINTING, {"use_reentrant": "no"}, "is 'no', and must be true or false"),
    "no such check": (CHECKPOINTING, {"determinism_check": "x"}, "one of 'default', 'none'"),
    "no way": (CHECKPOINTING, {"early_stop": True}, 'add "use_reentrant": false'),
    "another way": (CHECKPOINTING, {"use_reentrant": True, "debug": True}, "debug has no effect"),
    "no layer": (CHECKPOINTING, {"every_n_layers": 0}, "every_n_layers=0 must be"),
    "no accelerator": (CHECKPOINTING, {"offload": True}, "offload copies from an accelerator"),
    "a switch as a text": (ACCELERATOR, {"split_batches": "false"}, "is 'false', and must be true"),
    "a list": (ACCELERATOR, {"even_batches": [1]}, "even_batches is a list, and must be true"),
    "a number": (ACCELERATOR, {"dispatch_batches": 3}, "dispatch_batches is 3, and must be"),
    "steps": (
        ACCELERATOR,
        {"gradient_accumulation_kwargs": {"num_steps": 4}},
        "write --gradient_accumulation_steps 4",
    ),
    "within": (
        ACCELERATOR,
        {"gradient_accumulation_kwargs": {"sync_each_batch": "no"}},
        "gradient_accumulation_kwargs: sync_each_batch is 'no', and must be",
    ),
    "of no FSDP": ("fsdp_config", {"reshard_after": True}, "write reshard_after_forward"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    option, content, said = REFUSED[case]
    with pytest.raises(UserError, match=rf"^{option}: ") as raised:
        check_mappings({option: content})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        {CHECKPOINTING: None},
        {CHECKPOINTING: {"use_reentrant": True, "preserve_rng_state": False}},
        {CHECKPOINTING: {"use_reentrant": False, "debug": True, "determinism_check": "none"}},
        {CHECKPOINTING: {"every_n_layers": 2}},
        {ACCELERATOR: {"split_batches": True, "dispatch_batches": None}},
        {ACCELERATOR: {"gradient_accumulation_kwargs": {"sync_each_batch": True}}},
        {"fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]}},
        {"fsdp_config": {"version": 2, "min_num_params": 0, "xla": False, "xla_fsdp_v2": False}},
    ],
    ids=str,
)
def test_what_is_read_is_accepted(content: dict[str, Any]) -> None:
    check_mappings(content)
