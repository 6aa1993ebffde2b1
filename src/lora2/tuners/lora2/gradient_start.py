"""A start that looks at the data: v reads what the loss asks for in the same way batch after batch.

While 𝒱 = 0 only 𝒱 has a gradient, and it learns from v x alone. The strongest direction of the mean
gradient may be content that has to be unlearnt first: on agreement k = 1 stays at chance with it.
The direction in which the mean stands out against the scatter over batches is another one: with it
that plateau is left in half of the steps. The ridge keeps v from directions in which hardly
anything happens (docs/notebook/learning.md has what was tried).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from lora2.errors import NumericalError, UserError
from lora2.mathematics.signal_directions import signal_directions
from lora2.support.evaluation_mode import in_evaluation
from lora2.support.shown_values import as_shown, cut_off
from lora2.tuners.base.distributed.gathering import is_plain, local_part
from lora2.tuners.base.distributed.ranks import from_first_process
from lora2.tuners.lora2.layer import Lora2Layer, lora2_layers
from lora2.tuners.lora2.linear import Lora2Linear

logger = logging.getLogger(__name__)

BATCHES = 16
"""How many are read."""

_RIDGE = 1.0
# Random mixtures of a gradient's rows that are kept, at least.
_ROWS = 64
_SEED = 0
# A message has at most so many characters of layers' names.
_MOST_NAMES = 200

Loss = Callable[[nn.Module, Any], Tensor]


def start_from_gradients(
    model: nn.Module,
    batches: Iterable[Any],
    adapter_name: str = "default",
    *,
    loss: Loss | None = None,
) -> list[str]:
    """Turn v of an untrained adapter towards what the loss asks for, and return the modules' names.

    Linear layers are started, also quantized ones; other kinds keep their random v. Of each layer
    64 random mixtures of the gradient's rows are kept for each batch, 64 · d_in numbers. It costs
    one pass forward and backward over the batches, without dropout.

    Args:
        model: with an adapter that has the default start and has not been trained.
        batches: the first 16 are read; what the training reads, shuffled and of its batch size.
        adapter_name: the adapter.
        loss: takes model and batch and returns the loss; `model(**batch).loss` unless given.

    Raises:
        UserError: there is no such adapter, it is trained already, merged or split over processes,
            torch is in inference mode, the model returns no loss, `loss` cannot be called,
            `batches` are fewer than two or cannot be iterated over, or the gradients of fewer than
            two of them reach a linear layer.
        NumericalError: a loss or gradient is NaN or infinite.
    """
    started = time.perf_counter()
    if loss is not None and not callable(loss):
        raise UserError(
            f"loss={as_shown(loss)} cannot be called; give a function of model and batch that "
            "returns the loss, or leave it out."
        )
    if torch.is_inference_mode_enabled():
        raise UserError(
            "start_from_gradients was called within torch.inference_mode(), in which there are no "
            "gradients: call it outside."
        )
    layers = _layers(model, adapter_name)
    first = _first(batches)
    seen, read = _gradients(model, first, layers, adapter_name, _own_loss if loss is None else loss)
    _check_counts(seen, read)
    found = []
    for name, layer in layers.items():
        if len(seen[name]) > 1 and _start(layer, adapter_name, torch.stack(seen[name])):
            found.append(name)
        # All processes do it, also one in which no batch reached the layer.
        v = layer.parameters_of(adapter_name)["v"].detach()
        v.copy_(from_first_process(v))
    for layer in lora2_layers(model, adapter_name).values():
        layer.lora2_states[adapter_name].is_started = True
    logger.info(
        "v of %d of %d matrices started from the gradients of %d batches, in %.1f seconds.",
        len(found), len(layers), read, time.perf_counter() - started,
    )  # fmt: skip
    return found


def _first(batches: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over the first batches."""
    if isinstance(batches, Mapping):
        raise UserError("batches: got one batch; give several, such as a list or a DataLoader.")
    is_text = isinstance(batches, str | bytes)
    try:
        iterator = None if is_text else iter(batches)
    except TypeError:
        # Also of what seems to be iterable, such as a tensor of one number.
        iterator = None
    if iterator is None:
        raise UserError(
            f"batches: got {batches!r}; give batches as the model takes them, such as a DataLoader."
        )
    return islice(iterator, BATCHES)


def has_changed(model: nn.Module, adapter_name: str = "default") -> bool:
    """Whether an adapter has been trained, so that there is no start to be made: 𝒱 is not zero."""
    return any(
        bool(local_part(layer.parameters_of(adapter_name)["V"].detach()).any())
        for layer in lora2_layers(model, adapter_name).values()
        if layer.has_effect(adapter_name)
    )


def _layers(model: nn.Module, adapter_name: str) -> dict[str, Lora2Layer]:
    found = lora2_layers(model, adapter_name)
    # One is out_proj of an nn.MultiheadAttention, of which the weight alone is read.
    uncalled = [
        getattr(parent, own) for layer in found.values() for parent, own in layer.layers_inside()
    ]
    layers: dict[str, Lora2Layer] = {
        name: layer
        for name, layer in found.items()
        if isinstance(layer, Lora2Linear)
        and layer.has_effect(adapter_name)
        and layer not in uncalled
    }
    if not layers:
        raise UserError(
            f"The model calls no linear layer with a LoRA² adapter {adapter_name!r}, so there is "
            "nothing to start from gradients; leave init_weights at its default."
        )
    if any(adapter_name in layer.merged_adapters for layer in layers.values()):
        raise UserError(
            f"The adapter {adapter_name!r} is merged into the weights, so no gradient reaches it: "
            "call model.unmerge_adapter() before start_from_gradients."
        )
    if not any(layer.trains(adapter_name) for layer in layers.values()):
        raise UserError(
            f"The adapter {adapter_name!r} is not active, is disabled or has no trained factor, so "
            f"no gradient reaches it: call model.set_adapter({adapter_name!r}) before "
            "start_from_gradients."
        )
    for name, layer in layers.items():
        parameters = layer.parameters_of(adapter_name)
        if not is_plain(parameters.values()):
            raise UserError(
                f"The adapter {adapter_name!r} is split over several processes, and its start "
                "from gradients is not made there: call start_from_gradients before the model is "
                "sharded, or leave init_weights at its default."
            )
        if bool(parameters["V"].any()):
            raise UserError(
                f"𝒱 of {name} is not zero, so the adapter {adapter_name!r} has been trained or has "
                "another start: make a new one with init_weights='gradient', and start it before "
                "its training."
            )
    return layers


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    outputs = model(**batch) if isinstance(batch, Mapping) else model(batch)
    found = getattr(outputs, "loss", None)
    if found is None:
        raise UserError(
            "The model returned no loss for a batch, so there are no gradients to start from: give "
            "start_from_gradients a loss, and batches with labels."
        )
    loss: Tensor = found
    return loss


def _gradients(
    model: nn.Module,
    batches: Iterable[Any],
    layers: dict[str, Lora2Layer],
    adapter_name: str,
    loss_of: Loss,
) -> tuple[dict[str, list[Tensor]], int]:
    """Return mixtures of the rows of each layer's gradient, [rows, d_in], one a batch.

    Also how many batches were read: of some, no gradient may come to a layer.
    """
    device = next(iter(layers.values())).parameters_of(adapter_name)["v"].device
    mixtures = {name: _mixture(layer, adapter_name) for name, layer in layers.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    read = 0
    with in_evaluation(model), torch.enable_grad():
        for batch in batches:
            read += 1
            sums: dict[str, Tensor] = {}
            with _seeing(layers, mixtures, sums):
                # As a dictionary: other mappings may take more than their items.
                plain = dict(batch) if isinstance(batch, Mapping) else batch
                loss = loss_of(model, send_to_device(plain, device))
                wanted = [
                    parameter
                    for layer in layers.values()
                    for parameter in layer.parameters_of(adapter_name).values()
                    if parameter.requires_grad
                ]
                _check_loss(loss)
                torch.autograd.grad(loss, wanted, allow_unused=True)
            for name, each in sums.items():
                if not bool(each.isfinite().all()):
                    raise NumericalError(
                        f"NaN or infinity in the gradient of {name}, from which the adapter was to "
                        "start: look for it in the data or the base model."
                    )
                found[name].append(each)
    return found, read


def _check_counts(seen: dict[str, list[Tensor]], read: int) -> None:
    """Check that there were several batches, and that a layer has gradients of several."""
    if read < 2:
        raise UserError(
            f"batches: got {read}; give two at least, since the start is what the gradients of "
            "several have in common."
        )
    if max(len(each) for each in seen.values()) < 2:
        raise UserError(
            f"target_modules: the gradients of fewer than two of the {read} batches reached the "
            f"linear layers ({cut_off(', '.join(seen), _MOST_NAMES)}), because the model does not "
            "call them or the loss does not depend on them; adapt other linear layers, or leave "
            "init_weights at its default."
        )


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"a tensor of {loss.numel()}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"loss: it returned {kind}; return a tensor of one number.")
    if not loss.requires_grad:
        raise UserError(
            "loss: it does not depend on a trained parameter of the model; return what the model "
            "computes from the batch, without detach() or no_grad()."
        )


def _mixture(layer: Lora2Layer, adapter_name: str) -> Tensor:
    """Random mixtures [d_out, rows] of the outputs, or all of them where they are few."""
    d_out, _ = layer.matrix_shape()
    k, _ = layer.sizes_of(adapter_name)
    rows = max(_ROWS, 4 * k)
    if d_out <= rows:
        return torch.eye(d_out)
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(d_out, rows, generator=generator) / rows**0.5


@contextmanager
def _seeing(
    layers: dict[str, Lora2Layer], mixtures: dict[str, Tensor], sums: dict[str, Tensor]
) -> Iterator[None]:
    """Within, add up each layer's mixtures of the gradient's rows as the gradients arise."""

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            x = args[0].detach()

            def take(gradient: Tensor) -> None:
                mixture = mixtures[name] = mixtures[name].to(gradient.device)
                mixed = gradient.reshape(-1, gradient.shape[-1]).float() @ mixture
                part = mixed.mT @ x.reshape(-1, x.shape[-1]).float()
                sums[name] = sums[name] + part if name in sums else part

            computed = _rows_in(output, x.shape[:-1].numel(), layers[name].matrix_shape()[0])
            if computed is not None:
                computed.register_hook(take)

        return after

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows_in(output: Any, rows: int, width: int) -> Tensor | None:
    """Return what has a gradient for each row of a layer's input: a router returns more than that.

    None if there is nothing of this shape.
    """
    parts = output if isinstance(output, tuple | list) else (output,)
    tensors = (part for part in parts if isinstance(part, Tensor) and part.requires_grad)
    shaped = (each for each in tensors if each.shape[-1:] == (width,))
    return next((each for each in shaped if each.shape[:-1].numel() == rows), None)


@torch.no_grad()
def _start(layer: Lora2Layer, adapter_name: str, gradients: Tensor) -> bool:
    """Give v the directions, and return whether there are any."""
    v = layer.parameters_of(adapter_name)["v"]
    # Not every accelerator has float64, and no device has a QR decomposition in half precision.
    random = v.detach().cpu().double()
    length = random.norm(dim=1).mean()
    found = signal_directions(gradients.cpu(), len(v), ridge=_RIDGE)
    # Where there are fewer directions, random ones remain, made orthogonal to them.
    whole = torch.cat([found, random[len(found) :] / length])
    v.copy_(length * torch.linalg.qr(whole.mT).Q.mT)
    return len(found) > 0
