"""The tuner: puts SoRA layers into a model."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from lora2.tuners.base.config.patterns import looked_up
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer
from lora2.tuners.base.model.adapted_model import AdaptedModel
from lora2.tuners.sora.config import SoraConfig
from lora2.tuners.sora.layer import SoraLayer, SoraLinear


class SoraModel(AdaptedModel):
    """A model with SoRA adapters in its target modules (PEFT's tuner for `SoraConfig`)."""

    prefix = "sora_"
    tuner_layer_cls = SoraLayer
    # mypy would have the dictionary invariant in its values.
    layer_types = {nn.Linear: SoraLinear, Conv1D: SoraLinear}  # noqa: RUF012

    def add_to_layer(
        self, layer: AdaptedLayer, adapter_name: str, config: SoraConfig, module_name: str
    ) -> None:
        """Create A, g and B of one layer, with the rank that its name's pattern gives."""
        assert isinstance(layer, SoraLayer)
        r = looked_up(config.rank_pattern, module_name, config.r)
        layer.add_adapter(adapter_name, config, r)
