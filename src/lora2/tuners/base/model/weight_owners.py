"""How many modules have the weight of each adapted layer, which alone cannot know it.

An embedding and a tied head have one weight: a change that is merged into the one must not reach
the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lora2.errors import UserError
from lora2.tuners.base.layers.adapted_layer import AdaptedLayer


def count_weight_owners(model: nn.Module) -> None:
    """Set `weight_owners` of every adapted layer of the model.

    It stays 0, which means unknown, for a weight that is not in memory (offloaded or not loaded).
    """
    held: dict[Hashable, list[Tensor]] = defaultdict(list)
    for module in model.modules():
        for tensor in _tensors_of(module):
            held[memory_of(tensor)].append(tensor)

    def owners_of(weight: Tensor) -> int:
        return sum(overlap(weight, tensor) for tensor in held[memory_of(weight)])

    for layer in model.modules():
        if isinstance(layer, AdaptedLayer):
            base = layer.get_base_layer()
            weights = [getattr(base, name) for name in layer.weight_names()]
            is_unknown = any(weight.is_meta for weight in weights)
            layer.weight_owners = 0 if is_unknown else max(map(owners_of, weights))


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    held = (*module._parameters.values(), *module._buffers.values())
    yield from (tensor for tensor in held if tensor is not None)
    if isinstance(module, AdaptedLayer):
        yield from module.shared_weights.values()


def overlap(first: Tensor, second: Tensor) -> bool:
    """Whether a write to one of two tensors may change the other."""
    if first is second:
        return True
    if memory_of(first) != memory_of(second):
        return False
    # Parts of one storage may be apart: transformers loads q, k and v of a fused weight so.
    (start, end), (other, other_end) = _reach(first), _reach(second)
    return start < other_end and other < end


def _reach(tensor: Tensor) -> tuple[int, int]:
    """Return the bytes of its storage, from the first to after the last, that a tensor spans."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    first = int(tensor.storage_offset())
    last = first + sum((size - 1) * stride for size, stride in steps)
    return first * tensor.itemsize, (last + 1) * tensor.itemsize


def memory_of(tensor: Tensor) -> Hashable:
    """What two tensors have in common that `overlap`."""
    if type(tensor) in (nn.Parameter, Tensor) and not tensor.is_meta:
        start = tensor.untyped_storage().data_ptr()
        if start:
            return tensor.device, start
    # An empty tensor, or one that has its values elsewhere, is identified by the object itself.
    return id(tensor)


def check_layers_are_in_one_place(model: nn.Module) -> None:
    """Check that no adapted layer is in the model under another name, too, without its adapter.

    Raises:
        UserError: one is, so that a merge would change what the model computes there.
    """
    elsewhere = {
        child: f"{name}.{own}".removeprefix(".")
        for name, module in model.named_modules()
        if not isinstance(module, BaseTunerLayer)
        for own, child in module.named_children()
    }
    for name, layer in model.named_modules():
        if isinstance(layer, AdaptedLayer) and layer.get_base_layer() in elsewhere:
            other = elsewhere[layer.get_base_layer()]
            raise UserError(
                f"{name} and {other} are one layer with an adapter in the first place only, so a "
                f"merge would change the second as well: set {other} to a copy.deepcopy of the "
                "layer before the adapter is added, or leave the adapter unmerged."
            )
