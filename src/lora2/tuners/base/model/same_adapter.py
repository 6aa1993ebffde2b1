"""Whether a name still means the adapter that it meant before."""

from __future__ import annotations

from collections.abc import Mapping

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer


class SameAdapter:
    """Tells an adapter from one that was added under its name once it had been deleted.

    Args:
        layers: the layers of the adapter, by name.
        adapter_name: the adapter.
        user: the name of the class that changes the adapter later, for messages.
    """

    def __init__(self, layers: Mapping[str, AdaptedLayer], adapter_name: str, user: str) -> None:
        self._adapter_name = adapter_name
        self._user = user
        self._known = [(layer, layer.identity_of(adapter_name)) for layer in layers.values()]

    def check(self) -> None:
        """Check that all layers still have the adapter.

        Raises:
            UserError: it was deleted, whether or not another has its name.
        """
        name, user = self._adapter_name, self._user
        if not all(layer.has_adapter(name) for layer, _ in self._known):
            raise UserError(
                f"Adapter {name!r} has been deleted since this {user} was made; leave the call "
                "out, or make a new one for another adapter."
            )
        if not all(layer.identity_of(name) is known for layer, known in self._known):
            raise UserError(
                f"Adapter {name!r} has been deleted since this {user} was made, and another has "
                f"its name; make a new {user} for that one."
            )
