"""Ways through adapted linear layers: how to come to each, and by what it is recognised."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

import oracle
from lora2 import Lora2Config
from lora2.tuners.lora2 import forward_hook
from lora2.tuners.lora2.layer import Lora2Layer
from unit.models import DeepMlp, disturb, layers_of

NAMES = ("default", "second")


class CheckpointedMlp(DeepMlp):
    """`DeepMlp`, whose blocks are run again in the backward pass."""

    use_reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body["layers"]:
            run = partial(self._block, block)
            x = checkpoint(run, x, use_reentrant=self.use_reentrant)
        return x

    def _block(self, block: nn.ModuleDict, x: Tensor) -> Tensor:
        return torch.tanh(block["lin1"](torch.tanh(block["lin0"](x))))


class ReentrantMlp(CheckpointedMlp):
    use_reentrant = True


class Conv1DMlp(DeepMlp):
    """`DeepMlp` of transformers' Conv1D."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.body["layers"]:
            for name in block:
                block[name] = Conv1D(6, 6)


class Masked(nn.Module):
    """A dropout that always drops the same features."""

    mask = torch.tensor([2.0, 0.0, 2.0, 2.0, 0.0, 2.0], dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def mask_inputs(layer: Lora2Layer) -> None:
    for name in layer.adapter_dropout:
        layer.adapter_dropout[name] = Masked()


def hook_base(layer: Lora2Layer) -> None:
    """A hook that changes nothing, but must be run."""
    layer.base_layer.register_forward_hook(lambda module, inputs, output: None)


def leave(layer: Lora2Layer) -> None:
    pass


@dataclass(frozen=True)
class Path:
    """A way through the layers: how to come to it, and by what it is recognised."""

    name: str
    make: Callable[[], nn.Module] = DeepMlp
    change: Callable[[Lora2Layer], None] = leave
    adapters: int = 1
    hooked: bool = True
    prepared: bool = True
    joint: bool = True


PATHS = (
    Path("prepared"),
    Path("each_layer_for_itself", hooked=False, prepared=False),
    Path("conv1d", make=Conv1DMlp),
    Path("two_adapters", adapters=2),
    Path("two_adapters_each_layer_for_itself", adapters=2, hooked=False, prepared=False),
    Path("hooked_base", change=hook_base, joint=False),
    Path("dropout", change=mask_inputs, joint=False),
    Path("dropout_and_two_adapters", change=mask_inputs, adapters=2, joint=False),
    Path("checkpointed", make=CheckpointedMlp),
    Path("checkpointed_with_dropout", make=CheckpointedMlp, change=mask_inputs, joint=False),
    Path("checkpointed_reentrant", make=ReentrantMlp, prepared=False),
    Path("checkpointed_two_adapters", make=ReentrantMlp, adapters=2, prepared=False),
)


def adapted(path: Path, orthogonality: str) -> nn.Module:
    torch.manual_seed(0)
    names = NAMES[: path.adapters]
    configs = [
        Lora2Config(k=k, init_r=3, target_modules=["lin0", "lin1"], orthogonality=orthogonality)
        for k in (2, 4)
    ]
    model = get_peft_model(path.make(), configs[0])
    for name, config in zip(names[1:], configs[1:], strict=False):
        model.add_adapter(name, config)
    model.base_model.set_adapter(list(names))
    for seed, name in enumerate(names):
        disturb(model, name, seed)
    for layer in layers_of(model).values():
        path.change(layer)
    if not path.hooked:
        forward_hook.remove(model.get_base_model())
    return model.double().train()


def assert_same_gradients(
    path: Path, step: Callable[[nn.Module], None], reference: Callable[[nn.Module], None]
) -> None:
    """Check that two ways of a forward and backward pass give each trained tensor one gradient."""
    gradients = []
    for run in (step, reference):
        model = adapted(path, "exact")
        run(model)
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for got, wanted in zip(*gradients, strict=True):
        assert got is not None
        assert wanted is not None
        oracle.assert_agrees(got, wanted)
