"""The head's own learning rate: the same with every method, followed by the schedule."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.methods.registry import METHODS
from lora2.training.options.arguments import RunSettings
from lora2.training.prepare import prepare
from lora2.training.trainer.head_rate import give_own_rate


def settings(*words: str) -> RunSettings:
    return resolve(TrainParser(), words)


def test_parameters_move_with_all_settings_but_the_rate():
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = torch.optim.AdamW(
        [{"params": [a, b], "weight_decay": 0.5}, {"params": [c], "weight_decay": 0.0}], lr=1e-2
    )
    give_own_rate(optimizer, [b, c], 1e-3)
    found = [(g["params"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert found == [([a], 1e-2, 0.5), ([b], 1e-3, 0.5), ([c], 1e-3, 0.0)]
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [5e-3, 5e-4, 5e-4]


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name != "head" and not METHODS[name].from_peft]
)
def test_every_method_trains_the_head_at_its_own_rate(method, tiny_model, tmp_path):
    prepared = prepare(
        settings(f"--model={tiny_model}", f"--method={method}", "--learning_rate=0.01",
                 "--train_sentences=32", "--validation_sentences=8", "--baseline=none",
                 "--max_length=40", f"--output_dir={tmp_path / 'run'}")
    )  # fmt: skip
    trainer = prepared.trainer
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    rates = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rates.setdefault(group["lr"], []).append(names[id(parameter)])
    assert set(rates) == {0.01, 1e-3}
    assert all("classifier" in name for name in rates[1e-3])
    assert not any("classifier" in name for name in rates[0.01])


@pytest.mark.parametrize(
    ("words", "rate"), [((), 1e-3), (("--head_learning_rate=0.5",), 0.5)], ids=str
)
def test_the_default_does_not_follow_the_learning_rate(words, rate):
    assert settings("--learning_rate=0.02", *words).run.head_learning_rate == rate
