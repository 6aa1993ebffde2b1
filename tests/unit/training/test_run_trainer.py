"""What the trainer of every run does about NaN, and about checkpoints of whole models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from lora2 import Lora2Callback, Lora2Config
from lora2.errors import NumericalError, UserError
from lora2.training.trainer.run_trainer import RunTrainer
from lora2.tuners.lora2.layer import Lora2Layer
from unit.mixtures import MIXTRAL
from unit.tiny_transformers import Examples, bert_batch, tiny_bert, tiny_llama

ROWS = 4
NAN = float("nan")


def rows() -> list[dict[str, Tensor]]:
    batch = bert_batch(ROWS)
    return [{name: tensor[i] for name, tensor in batch.items()} for i in range(ROWS)]


def trainer_of(model: Any, folder: Path, **changed: Any) -> RunTrainer:
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 6,
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 100,
    }
    is_lora2 = any(isinstance(module, Lora2Layer) for module in model.modules())
    return RunTrainer(
        model=model,
        args=TrainingArguments(**arguments | changed),
        train_dataset=rows(),
        callbacks=[Lora2Callback()] if is_lora2 else [],
    )


def lora() -> Any:
    return get_peft_model(tiny_bert(), LoraConfig(task_type="SEQ_CLS", r=2))


def lora2() -> Any:
    return get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS", k=2, init_r=2))


METHODS: dict[str, Callable[[], Any]] = {"lora": lora, "lora2": lora2, "full": tiny_bert}


@pytest.fixture(params=METHODS)
def model(request: pytest.FixtureRequest) -> Any:
    return METHODS[request.param]()


def parameter(model: nn.Module, end: str) -> tuple[str, nn.Parameter]:
    """The one trained parameter of a name with this end, and its name."""
    ((name, found),) = (
        (name, each)
        for name, each in model.named_parameters()
        if re.search(end, name) and each.requires_grad
    )
    return name, found


TWO_MICRO_BATCHES = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "max_steps": 3,
}
HEADS_BIAS = r"classifier\.(modules_to_save\.default\.)?bias$"


# --- NaN and infinity ---


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_gradient_that_is_not_finite_is_named_and_reaches_no_weight(
    model: Any, value: float, max_grad_norm: float, tmp_path: Path
) -> None:
    """That of the head: clipping spreads it to the gradients of all layers before it."""
    name, bias = parameter(model, HEADS_BIAS)
    seen: list[Tensor] = []

    def third(gradient: Tensor) -> Tensor:
        seen.append(gradient)
        return torch.full_like(gradient, value) if len(seen) == 3 else gradient

    bias.register_hook(third)
    trainer = trainer_of(model, tmp_path, max_grad_norm=max_grad_norm)
    message = f"^NaN or infinity in the gradient of {re.escape(name)} at step 3: "
    with pytest.raises(NumericalError, match=message):
        trainer.train()
    assert all(each.isfinite().all() for each in model.parameters())
    saved = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert saved == ["checkpoint-1", "checkpoint-2"]


def test_the_module_whose_output_makes_the_loss_nan_is_named(model: Any, tmp_path: Path) -> None:
    (name, layer) = next(
        (name, each)
        for name, each in model.named_modules()
        if name.endswith("encoder.layer.1.intermediate")
    )
    layer.register_forward_hook(lambda module, inputs, output: output * NAN)
    message = f"^The training loss is nan at step 1, from NaN .* output of {re.escape(name)}: "
    with pytest.raises(NumericalError, match=message):
        trainer_of(model, tmp_path).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_trained_weight_that_is_not_finite_is_named(model: Any, tmp_path: Path) -> None:
    name, bias = parameter(model, HEADS_BIAS)
    bias.data[0] = NAN
    with pytest.raises(NumericalError, match=f"^NaN or infinity in {re.escape(name)} of the model"):
        trainer_of(model, tmp_path).train()


def test_no_checkpoint_is_made_of_weights_that_are_not_finite(model: Any, tmp_path: Path) -> None:
    trainer = trainer_of(model, tmp_path)
    name, bias = parameter(model, HEADS_BIAS)
    bias.data[0] = float("inf")
    with pytest.raises(NumericalError, match=f"^NaN or infinity in {re.escape(name)} of the model"):
        trainer._save_checkpoint(model, None)
    assert not list(tmp_path.iterdir())


def test_micro_batches_are_checked_once_for_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "lora2.training.trainer.run_trainer.check_step",
        lambda model, losses, step, compute: steps.append((len(losses), step)),
    )
    trainer_of(lora(), tmp_path, **TWO_MICRO_BATCHES).train()
    assert steps == [(2, 1), (2, 2), (2, 3)]


def test_a_module_that_makes_the_loss_of_an_earlier_micro_batch_nan_is_named(
    model: Any, tmp_path: Path
) -> None:
    name, layer = next(
        (name, each)
        for name, each in model.named_modules()
        if name.endswith("encoder.layer.0.intermediate")
    )
    first = rows()[0]["input_ids"]

    def spoil(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * NAN if torch.equal(read[-1], first) else output

    read: list[Tensor] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"][0]), with_kwargs=True
    )
    layer.register_forward_hook(spoil)
    trainer = trainer_of(model, tmp_path, **TWO_MICRO_BATCHES, train_sampling_strategy="sequential")
    message = f"^The training loss is nan at step 1, from NaN .* output of {re.escape(name)}: "
    with pytest.raises(NumericalError, match=message):
        trainer.train()


def test_the_loss_scaler_of_float16_is_left_its_overflows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option fp16 is False where accelerate's launcher has chosen the precision."""

    def check(*arguments: object) -> None:
        raise AssertionError("checked")

    monkeypatch.setattr("lora2.training.trainer.run_trainer.check_step", check)
    trainer = trainer_of(lora(), tmp_path, save_strategy="no", max_steps=1)
    trainer.args.mixed_precision = "fp16"
    assert trainer.args.fp16 is False
    trainer.train()


# --- checkpoints of whole models ---


def tiny_vit() -> nn.Module:
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32,
        )
    )  # fmt: skip


WHOLE: dict[str, Callable[[], Any]] = {
    "bert": tiny_bert,
    "llama, tied": lambda: tiny_llama(tie_word_embeddings=True),
    # In their files the tensors of these have other names than in memory.
    "vit": tiny_vit,
    "mixtral": MIXTRAL.model,
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_is_loaded_as_it_was_saved(name: str, tmp_path: Path) -> None:
    model = WHOLE[name]()
    trainer = trainer_of(model, tmp_path)
    trainer.save_model(str(tmp_path / "checkpoint-1"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_a_tensor_that_the_model_never_saves_is_not_missed(tmp_path: Path) -> None:
    model = tiny_bert()
    model.bert.register_buffer("extra", torch.ones(2))
    model._keys_to_ignore_on_save = {"bert.extra"}
    trainer = trainer_of(model, tmp_path)
    trainer.save_model(str(tmp_path / "checkpoint-1"))
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert torch.equal(model.bert.extra, torch.ones(2))


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda state: state | {"other": torch.zeros(1)}, "hold other"),
        (lambda state: dict([*state.items()][1:]), "lack"),
    ],
    ids=["one more", "one less"],
)
def test_weights_of_other_names_are_refused(
    damage: Callable[[dict[str, Tensor]], dict[str, Tensor]], fault: str, tmp_path: Path
) -> None:
    trainer = trainer_of(tiny_bert(), tmp_path)
    trainer.save_model(str(tmp_path / "checkpoint-1"))
    file = tmp_path / "checkpoint-1" / "model.safetensors"
    save_file(damage(load_file(file)), file, metadata={"format": "pt"})
    message = f"^resume: the weights of the checkpoint {fault}.*--overwrite"
    with pytest.raises(UserError, match=message):
        trainer._load_from_checkpoint(str(file.parent))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_smaller_last_micro_batch_counts_by_its_rows(size: int, tmp_path: Path) -> None:
    batch = bert_batch(5)

    def weights_after_a_step(size: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        trainer = trainer_of(
            tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            tmp_path,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            save_strategy="no",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=-(-5 // size),
            train_sampling_strategy="sequential",
        )
        trainer.train_dataset = Examples(batch)
        trainer.train()
        return trainer.model.state_dict()

    expected, found = weights_after_a_step(5), weights_after_a_step(size)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5)
