"""Faults of other libraries' versions, each with the tests that it makes fail."""

import pickle

import numpy
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
# transformers reads rng_state.pth with torch's restricted unpickler, which knows NumPy's own names
# of the installed version alone: NumPy 1 cannot resume what NumPy 2 has written.
WRITTEN_WITH_NUMPY_2 = pytest.mark.xfail(
    Version(numpy.__version__) < Version("2"),
    raises=pickle.UnpicklingError,
    reason="the checkpoint was written with NumPy 2, whose random state NumPy 1 cannot read",
)
ADDED_BY_TRANSFORMERS = pytest.param("transformers", marks=ADAPTERS_OF_TRANSFORMERS)
