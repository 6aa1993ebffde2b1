"""A language model is scored on its answers while it is trained."""

import types

import pytest
from torch import nn

from lora2.training.scores import exact_match


def test_an_error_while_scoring_leaves_the_model_in_training_mode(monkeypatch):
    def fails(*args, **fields):
        raise ValueError("out of positions")

    monkeypatch.setattr(exact_match, "generate", fails)
    model = nn.Dropout()
    accelerator = types.SimpleNamespace(unwrap_model=lambda wrapped: wrapped)
    trainer = types.SimpleNamespace(model=model, accelerator=accelerator)
    callback = exact_match.ExactMatchCallback(trainer, None, [("a question", "an answer")], 8)
    arguments = types.SimpleNamespace(per_device_eval_batch_size=2)
    with pytest.raises(ValueError, match="out of positions"):
        callback.on_train_end(arguments, types.SimpleNamespace(), None)
    assert model.training
