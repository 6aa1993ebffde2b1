"""How many items the loss of a batch is the mean of, which may differ between batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers.trainer_pt_utils import find_batch_size

if TYPE_CHECKING:
    # `CountedItems` is mixed into this class or one of its subclasses.
    from transformers import Trainer as _Base
else:
    _Base = object


class CountedItems(_Base):
    """Mixed into a trainer whose loss of a batch is the mean over the items in it."""

    def items_in(self, batch: Mapping[str, Any]) -> int:
        """Return how many items the loss of a batch is the mean of: its rows."""
        return int(find_batch_size(batch))
