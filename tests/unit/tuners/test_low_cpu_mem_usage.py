"""What `low_cpu_mem_usage` loads of an adapter, for each method of ours."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

from unit import bottleneck, kind_case, sora
from unit.models import KINDS, LINEAR, Kind

ADAPTERS = [
    *(
        pytest.param(kind, partial(kind_case.adapted, kind), id=f"lora2-{kind.name}")
        for kind in KINDS
    ),
    pytest.param(LINEAR, sora.adapted, id="sora"),
    pytest.param(LINEAR, bottleneck.adapted, id="bottleneck"),
]


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize(("kind", "adapted"), ADAPTERS)
def test_low_cpu_mem_usage_gives_the_factors_that_loading_without_it_does(
    kind: Kind, adapted: Callable[[], PeftModel], autocast: bool, tmp_path: Path
) -> None:
    """On a base in half precision: tensors of one dtype, and the same values."""
    adapted().save_pretrained(tmp_path)
    usual, low = (
        get_peft_model_state_dict(
            PeftModel.from_pretrained(
                kind.model().bfloat16(), tmp_path,
                low_cpu_mem_usage=low, autocast_adapter_dtype=autocast,
            )
        )
        for low in (False, True)
    )  # fmt: skip
    assert {t.dtype for t in low.values()} == {torch.float32 if autocast else torch.bfloat16}
    for name, tensor in usual.items():
        assert low[name].dtype == tensor.dtype
        assert torch.equal(low[name], tensor)
