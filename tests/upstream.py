"""Faults of other libraries' versions, each with the tests that it makes fail."""

import peft
import pytest
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION

# transformers 5.24.0 (its `check_peft_version` in integrations/peft.py): LoRA fails alike.
ADAPTERS_OF_TRANSFORMERS = pytest.mark.xfail(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    raises=ValueError,
    reason=f"model.add_adapter of transformers wants PEFT {MIN_PEFT_VERSION}, which is not out yet",
)
ADDED_BY_TRANSFORMERS = pytest.param("transformers", marks=ADAPTERS_OF_TRANSFORMERS)
