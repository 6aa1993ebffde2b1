"""The factor of each adapter's change, and PEFT's methods that alter it."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer


class ScaledLayer(BaseTunerLayer):
    """A layer whose adapters are multiplied by `scaling`, as PEFT's LoRA layers are.

    Attributes:
        scaling: factor of the change by adapter name. It may be altered; it is not saved.
    """

    scaling: dict[str, float]

    def initial_scaling(self, adapter_name: str) -> float:
        """Return the factor that the adapter's config gives."""
        raise NotImplementedError

    def set_scale(self, adapter: str, scale: float) -> None:
        """Make the factor of one adapter `scale` times the one that its config gives."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.initial_scaling(adapter)

    def scale_layer(self, scale: float) -> None:
        """Multiply the factor of every active adapter."""
        for name in self._scaled_adapters():
            self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the factor of every active adapter; None gives the config's again."""
        for name in self._scaled_adapters():
            if scale is None:
                self.scaling[name] = self.initial_scaling(name)
            else:
                self.scaling[name] /= scale

    def _scaled_adapters(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.scaling]
