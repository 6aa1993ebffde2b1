"""The logits of a mixture of experts' router, which are wanted in training alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_router_logits(model: Any) -> Iterator[None]:
    """Let a model return no logits of its routers, as long as the context lasts.

    TRL asks for them in the model's config, for the loss that balances the experts. A model that
    generates with a cache cannot compute that loss, and a config that is saved must not ask for it.
    """
    config = model.config.get_text_config()
    if not getattr(config, "output_router_logits", False):
        yield
        return
    config.output_router_logits = False
    try:
        yield
    finally:
        config.output_router_logits = True
