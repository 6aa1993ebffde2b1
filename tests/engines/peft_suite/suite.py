"""PEFT's test_custom_models with the rows of LoRA and LoRA² in place of all rows.

Its tests keep the lists of rows by reference, so the rows are replaced before pytest reads them.
"""

from peft import LoraConfig
from rows import pairs, pairs_of_configs
from tests import test_custom_models as suite
from tests.test_custom_models import (  # noqa: F401
    TestMixedAdapterBatches,
    TestMultipleActiveAdapters,
    TestPeftCustomModel,
    TestPeftFsdpStateDict,
    TestRequiresGrad,
)

from lora2 import Lora2Config

suite.TEST_CASES[:] = pairs(suite.TEST_CASES)
suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES[:] = pairs(suite.MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES)
suite.MIXED_ADAPTER_TEST_CASES[:] = pairs_of_configs(suite.MIXED_ADAPTER_TEST_CASES)
suite.ALL_PEFT_CONFIG_CLASSES[:] = [LoraConfig, Lora2Config]
