"""What a layer knows of one adapter in addition to its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class AdapterState:
    """One adapter in one layer.

    Attributes:
        config_scaling: the scaling that the config gives; the layer's own `scaling` is what counts.
        orthonormalize: whether v is made orthonormal.
        k: columns of v; a parameter that is sharded or partitioned need not tell them.
        r: singular values.
        first_k: k as the adapter was made, whatever pruning and cutting leave of it.
        is_narrowed: k has become smaller, so that the scaling no longer follows from it, and a
            state dict of the whole module needs it.
        is_started: v has been started from gradients.
        is_allocated: an allocator prunes it, as against a budget that nobody prunes to.
        is_finished: its schedule is over, and its zero singular values are not saved.
        pruned: [r] once it is finished, true where a value was pruned: that value counts as zero,
            whatever an optimizer that knows it makes of it. None where all are kept.
        was_frozen_empty: it was trained and has no singular values left: it is frozen until it has
            some again.
        watch: sees the gradient of 𝒱 as it arises.
    """

    config_scaling: float
    orthonormalize: bool
    k: int
    r: int
    first_k: int
    is_narrowed: bool = False
    is_started: bool = False
    is_allocated: bool = False
    is_finished: bool = False
    pruned: Tensor | None = None
    was_frozen_empty: bool = False
    watch: Callable[[Tensor], None] | None = None
