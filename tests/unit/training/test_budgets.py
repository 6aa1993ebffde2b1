"""What the plan of a run says of pruning, for every method that prunes."""

from typing import Any

import pytest

from lora2.training.base_models.models import BaseModel
from lora2.training.budgets import budget_in_words, final_size
from lora2.training.methods.registry import METHODS
from lora2.training.methods.whole_modules import HEADS
from lora2.training.options.arguments import RunSettings
from unit.tiny_transformers import tiny_bert

STEPS = 10
WINDOW = {"tinit": 2, "tfinal": 3, "deltaT": 1}
# Two layers of four matrices 8 × 8 and two of 8 × 16.
MATRICES, SQUARE, LONG = 2 * 6, 8 + 8, 8 + 16


def built(method: str, **options: Any) -> Any:
    settings = RunSettings.from_options({**METHODS[method].defaults, **options})
    return METHODS[method].build(BaseModel(tiny_bert(), ("classifier",)), settings.adapter, STEPS)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("lora2", {"k": 4, "init_r": 4, "target_r": 1, **WINDOW},
         "48 → 12 singular values (cubic), pruned from step 2 to 7 of 10"),
        ("adalora", {"init_r": 4, "target_r": 1, **WINDOW},
         "48 → 12 singular values (cubic), pruned from step 2 to 7 of 10"),
        ("sora", {"threshold": 0.001},
         "none; gates shrink by 0.001 a step, and closed ones are pruned"),
        ("sora", {"threshold": 0.001, "max_threshold": 0.1, "threshold_schedule": "linear"},
         "none; gates shrink by 0.001 to 0.1 (linear) a step, and closed ones are pruned"),
        ("lora", {"k": 2}, "none"),
        ("full", {}, "none"),
    ],
)  # fmt: skip
def test_the_budget_of_each_method(method: str, options: dict[str, Any], words: str) -> None:
    assert budget_in_words(built(method, **options), STEPS) == words


@pytest.mark.parametrize("method", ["lora2", "adalora"])
def test_the_final_size_of_a_target(method: str) -> None:
    sizes = {"k": 4, "init_r": 4} if method == "lora2" else {"init_r": 4}
    model = built(method, **sizes, target_r=1, **WINDOW)
    # Twelve values: three whole matrices of the small ones, or of the large ones.
    assert final_size(model, HEADS) == (MATRICES * SQUARE, MATRICES * LONG)


@pytest.mark.parametrize("method", ["sora", "lora", "full"])
def test_without_a_target_no_final_size_is_known(method: str) -> None:
    assert final_size(built(method), HEADS) is None
