"""What an adapted layer has of its base layer: attributes that models read, device and dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lora2.tuners.base.offloading import execution_device


def of_base_layer(*names: str) -> Any:
    """A property that reads and writes the first of these attributes that the base layer has."""

    def held(layer: BaseTunerLayer) -> tuple[Any, str]:
        base = layer.get_base_layer()
        # torch 2.8 cannot compile `next` of a generator here.
        for name in names:
            if hasattr(base, name):
                return base, name
        # Where there is none, the first name is in the error.
        return base, names[0]

    return property(lambda layer: getattr(*held(layer)), lambda layer, v: setattr(*held(layer), v))


def base_of(module: nn.Module) -> nn.Module:
    """Return the layer under the adapters of a module; the module itself if it has none."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


class BaseAttributes(BaseTunerLayer):
    """The attributes of the base layer, in addition to `weight` and `bias`, which PEFT passes on.

    Properties by name, not `__getattr__`: that would show what belongs to the base layer alone,
    such as its hooks, and slow down every access to a submodule.
    """

    # nn.Linear has these; PEFT's code reads them of the other kinds, too.
    in_features = of_base_layer("in_features", "nx", "in_channels", "num_embeddings")
    out_features = of_base_layer("out_features", "nf", "out_channels", "embedding_dim")
    # transformers' Conv1D
    nf = of_base_layer("nf")
    nx = of_base_layer("nx")
    # nn.Embedding
    num_embeddings = of_base_layer("num_embeddings")
    embedding_dim = of_base_layer("embedding_dim")
    padding_idx = of_base_layer("padding_idx")
    max_norm = of_base_layer("max_norm")
    norm_type = of_base_layer("norm_type")
    scale_grad_by_freq = of_base_layer("scale_grad_by_freq")
    sparse = of_base_layer("sparse")
    embed_scale = of_base_layer("embed_scale")
    # nn.Conv1d, nn.Conv2d, nn.Conv3d
    in_channels = of_base_layer("in_channels")
    out_channels = of_base_layer("out_channels")
    kernel_size = of_base_layer("kernel_size")
    stride = of_base_layer("stride")
    padding = of_base_layer("padding")
    padding_mode = of_base_layer("padding_mode")
    dilation = of_base_layer("dilation")
    groups = of_base_layer("groups")
    transposed = of_base_layer("transposed")
    output_padding = of_base_layer("output_padding")

    def move_to_base_layer(self, adapter_name: str) -> None:
        """Move an adapter to the device of the base layer, and to its dtype."""
        # PEFT would move it to the device of an offloaded weight, where no values are.
        device = execution_device(self.get_base_layer())
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: Any = None) -> None:
        # PEFT calls this when an adapter has got the values of its file (low_cpu_mem_usage), and
        # would round them to the dtype of the base layer.
        kept = {
            (owner, name): getattr(owner, name).data
            for owner, name in self._parameters_with_owner(adapter_name)
        }
        if device is None:
            device = execution_device(self.get_base_layer())
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        for (owner, name), precise in kept.items():
            moved = getattr(owner, name)
            if moved.dtype.itemsize < precise.dtype.itemsize:
                values = precise.to(moved.device)
                setattr(owner, name, nn.Parameter(values, requires_grad=moved.requires_grad))

    def _parameters_with_owner(self, adapter_name: str) -> Iterator[tuple[nn.Module, str]]:
        for held in (getattr(self, name) for name in self.adapter_layer_names):
            if adapter_name not in held:
                continue
            if isinstance(held, nn.ParameterDict):
                yield held, adapter_name
            elif isinstance(held, nn.ModuleDict):
                for module in held[adapter_name].modules():
                    yield from (
                        (module, name) for name, _ in module.named_parameters(recurse=False)
                    )

    # PEFT's `disable_input_dtype_casting` sets it.
    cast_input_dtype_enabled = True
