"""LoRA and AdaLoRA of `lora2 train` against PEFT alone in a plain loop: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.adalora.layer import AdaLoraLayer
from torch import Tensor, nn

from lora2.training.base_models.models import BaseModel
from lora2.training.methods.registry import METHODS
from lora2.training.options.arguments import RunSettings
from lora2.training.trainer.run_trainer import RunTrainer
from unit.method_case import trainer_of
from unit.tiny_transformers import Examples, bert_batch, tiny_bert

STEPS, SIZE, RATE = 10, 4, 1e-2
MATRICES = ["query", "key", "value", "output.dense", "intermediate.dense"]


def batches() -> list[dict[str, Tensor]]:
    return [bert_batch(SIZE, seed=step) for step in range(STEPS)]


def plain_loop(config: PeftConfig, *, allocates: bool) -> tuple[list[float], PeftModel]:
    """What PEFT's documentation says to write; the losses, and the model."""
    base = tiny_bert()
    torch.manual_seed(3)
    model = get_peft_model(base, config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    losses = []
    for step, batch in enumerate(batches(), start=1):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        if allocates:
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return losses, model


class LossTrainer(RunTrainer):
    """Keeps every loss, which the trainer's own logs round."""

    losses: list[float]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def our_trainer(method: str, folder: Path, options: dict[str, Any], **training: Any) -> LossTrainer:
    """The same by what `lora2 train` builds."""
    base = BaseModel(tiny_bert(), ("classifier",))
    chosen = METHODS[method]
    settings = RunSettings.from_options({**chosen.defaults, **options})
    torch.manual_seed(3)
    model = chosen.build(base, settings.adapter, STEPS)
    rows = {name: torch.cat([batch[name] for batch in batches()]) for name in batches()[0]}
    usual = {
        "max_steps": STEPS,
        "per_device_train_batch_size": SIZE,
        "train_sampling_strategy": "sequential",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    trainer = trainer_of(chosen, model, folder, rows, LossTrainer, **usual | training)
    trainer.losses = []
    return trainer


def our_run(
    method: str, folder: Path, options: dict[str, Any], **training: Any
) -> tuple[list[float], nn.Module]:
    """The losses of a training, and the model."""
    trainer = our_trainer(method, folder, options, **training)
    trainer.train()
    return trainer.losses, trainer.model


def assert_equal_ends(ours: nn.Module, theirs: nn.Module) -> None:
    found, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, atol=1e-6, rtol=1e-6)


def test_lora_is_pefts(tmp_path: Path) -> None:
    config = LoraConfig(r=3, lora_alpha=16, target_modules=MATRICES, task_type="SEQ_CLS")
    expected, theirs = plain_loop(config, allocates=False)
    losses, ours = our_run("lora", tmp_path, {"k": 3, "lora_alpha": 16.0})
    assert losses == pytest.approx(expected, abs=1e-6)
    assert_equal_ends(ours, theirs)


SCHEDULES: dict[str, dict[str, Any]] = {
    "in_every_step": {"tinit": 2, "tfinal": 3, "deltaT": 1},
    "in_every_other_step": {"tinit": 1, "tfinal": 3, "deltaT": 2},
    "until_the_end": {"tinit": 0, "tfinal": 0, "deltaT": 1},
}


def adalora_config(schedule: dict[str, Any]) -> AdaLoraConfig:
    return AdaLoraConfig(
        init_r=4,
        target_r=2,
        lora_alpha=16,
        beta1=0.85,
        beta2=0.85,
        orth_reg_weight=0.1,
        total_step=STEPS,
        target_modules=MATRICES,
        task_type="SEQ_CLS",
        **schedule,
    )


def kept(model: nn.Module) -> list[int]:
    return [int(layer.lora_E["default"].count_nonzero()) for layer in layers(model)]


def layers(model: nn.Module) -> list[AdaLoraLayer]:
    return [module for module in model.modules() if isinstance(module, AdaLoraLayer)]


def assert_equal_changes(ours: nn.Module, theirs: nn.Module) -> None:
    for one, other in zip(layers(ours), layers(theirs), strict=True):
        found, expected = (layer.get_delta_weight("default") for layer in (one, other))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    heads = [model.base_model.model.classifier for model in (ours, theirs)]
    assert_equal_ends(*heads)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_adalora_is_pefts(schedule: dict[str, Any], tmp_path: Path) -> None:
    expected, theirs = plain_loop(adalora_config(schedule), allocates=True)
    losses, ours = our_run("adalora", tmp_path, {"init_r": 4, "target_r": 2, **schedule})
    assert losses == pytest.approx(expected, abs=1e-6)
    assert_equal_changes(ours, theirs)
    # Twelve matrices of four ranks, of which half are pruned.
    assert kept(ours) == kept(theirs)
    assert sum(kept(ours)) == 24
    assert len(set(kept(ours))) > 1
    # Ours has dropped what was pruned, and both have the scale they started with.
    assert [len(layer.lora_A["default"]) for layer in layers(ours)] == kept(theirs)
    scales = {layer.ranknum["default"].item() for layer in layers(ours) if kept(layer) != [0]}
    assert scales == {4.0}


def test_fractions_of_the_training_are_its_steps(tmp_path: Path) -> None:
    schedule = {"tinit": 0.2, "tfinal": 0.3, "deltaT": 0.1}
    expected, _ = plain_loop(adalora_config(SCHEDULES["in_every_step"]), allocates=True)
    losses, _ = our_run("adalora", tmp_path, {"init_r": 4, "target_r": 2, **schedule})
    assert losses == pytest.approx(expected, abs=1e-6)


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    """PEFT writes the names in AdaLoRA's config again when it saves."""
    options = {"init_r": 4, "target_r": 2, **SCHEDULES["in_every_step"]}
    expected, theirs = our_run("adalora", tmp_path / "one", options)
    losses, ours = our_run(
        "adalora", tmp_path / "two", options, save_strategy="steps", save_steps=1
    )
    assert losses == expected
    assert_equal_ends(ours, theirs)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "mixed"])
def test_adaloras_penalty_is_no_part_of_the_evaluation_loss(bf16: bool, tmp_path: Path) -> None:
    batch = bert_batch(SIZE, seed=0)
    options = {"init_r": 4, "target_r": 2.0, "orth_reg_weight": 0.1, **SCHEDULES["in_every_step"]}
    trainer = our_trainer("adalora", tmp_path, options, bf16=bf16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = trainer.model.eval()(**batch)
        task_loss = nn.functional.cross_entropy(output.logits, batch["labels"]).item()
    # The penalty that PEFT adds in any mode is far from nothing.
    assert output.loss.item() > task_loss + 0.1
    evaluated = trainer.evaluate(Examples(batch))
    assert evaluated["eval_loss"] == pytest.approx(task_loss, abs=1e-6)
