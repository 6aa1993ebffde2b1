"""How torch runs an operation: once forward and once backward, or otherwise."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks


def is_transformed() -> bool:
    """Whether functorch (`torch.func`) or forward-mode differentiation is active.

    Both follow plain operations to any order, and autograd Functions only where they have rules.
    """
    if torch.compiler.is_compiling():
        return False
    is_forward_mode: bool = forward_ad._current_level >= 0
    return is_forward_mode or torch._C._are_functorch_transforms_active()


def is_traced() -> bool:
    """Whether `torch.jit.trace` is active, which can save plain operations alone."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def must_stay_plain() -> bool:
    """Whether each layer is to compute its factors by itself, by plain operations.

    A compiler sees through the layers' formulas and fuses them; a tracer and functorch take no
    autograd Function without rules, and no later pass can train on what inference mode makes.
    """
    return (
        torch.compiler.is_compiling()
        or torch.is_inference_mode_enabled()
        or is_traced()
        or is_transformed()
    )


def is_in_backward_pass() -> bool:
    """Whether autograd runs a backward pass in this thread, as where checkpointing recomputes."""
    return bool(torch._C._current_graph_task_id() != -1)


def is_dispatched() -> bool:
    """Whether a `TorchDispatchMode` sees each operation; selective checkpointing keeps results."""
    return not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() > 0


def keeping_what_is_saved() -> AbstractContextManager[object]:
    """Within, autograd keeps what it saves, where checkpointing would count it and drop it."""
    if must_stay_plain() or torch._C._autograd._top_saved_tensors_default_hooks(False) is None:
        return nullcontext()
    return saved_tensors_hooks(_as_it_is, _as_it_is)


def _as_it_is(saved: Tensor) -> Tensor:
    return saved


def is_differentiated_again() -> bool:
    """Whether the backward pass that asks is to be differentiated (`create_graph`)."""
    # A compiler looks at a backward pass with gradients enabled, and differentiates it once.
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
