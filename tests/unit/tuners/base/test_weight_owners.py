"""How many modules have an adapted weight, and what a merge then writes to."""

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from lora2 import Lora2Config
from lora2.tuners.base.model.weight_owners import overlap
from unit.models import disturb, layers_of


class Parts(nn.Module):
    """Two layers whose weights are rows of one tensor."""

    def __init__(self, second_row: int) -> None:
        super().__init__()
        fused = torch.randn(12, 6)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.first.weight.data = fused[:6]
        self.second.weight.data = fused[second_row : second_row + 6]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize(("second_row", "owners"), [(6, 1), (3, 2), (0, 2)])
def test_parts_of_one_storage_count_as_shared_where_they_overlap(
    second_row: int, owners: int
) -> None:
    base = Parts(second_row)
    weight, other = base.first.weight, base.second.weight.detach().clone()
    model = get_peft_model(base, Lora2Config(k=2, target_modules=["first"]))
    disturb(model)
    (layer,) = layers_of(model).values()
    model.merge_adapter()
    assert layer.weight_owners == owners
    # In place where no other module has it.
    assert (layer.get_base_layer().weight is weight) == (owners == 1)
    assert torch.equal(base.second.weight, other)


FUSED = torch.zeros(12, 6)
HALVES = FUSED.view(-1).view(torch.bfloat16)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (FUSED[:6].T, FUSED[6:].T, False),
        (FUSED[:6].T, FUSED[5:].T, True),
        # Each row has columns of both.
        (FUSED[:, :3], FUSED[:, 3:], True),
        # A number of the second has half as many bytes.
        (FUSED[6:], HALVES[72:], True),
        (FUSED[6:], HALVES[36:72], False),
    ],
    ids=["transposed", "transposed, one row", "columns", "other type", "other type, apart"],
)
def test_tensors_overlap_where_their_bytes_do(
    first: Tensor, second: Tensor, expected: bool
) -> None:
    assert overlap(first, second) == overlap(second, first) == expected
