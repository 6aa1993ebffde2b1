"""A tiny pretrained model in a folder, and `lora2` called as a user calls it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lora2.training.checks.option_effects import reason_against
from lora2.training.options.arguments import RunSettings
from lora2.training.trainer.run_trainer import RunTrainer
from lora2_cli.main import main

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WORDS = "the a is are was were has have near with that table tables doctor doctors here away ."


def save_tokenizer(folder: Path) -> None:
    """Save a WordPiece tokenizer of some words, and of letters for all others."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*_SPECIAL, *_WORDS.split(), *letters[1:], *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)


def save_tiny_model(folder: Path, hidden: int = 16, layers: int = 2, dropout: float = 0.1) -> Path:
    """Save a random BERT encoder without a head, as pretrained encoders come."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        vocab_size=100,
        max_position_embeddings=64,
        pad_token_id=0,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def lora2(*arguments: object) -> int:
    """Run `lora2` and return its exit code."""
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run `lora2`, check that it refuses in one sentence with code 2, and return the sentence."""
    capsys.readouterr()
    assert lora2(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lora2: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


# Four optimizer steps an epoch, two epochs, pruning from step 2 to 5.
SMALL = {
    "train_sentences": 32,
    "validation_sentences": 8,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 2,
    "max_length": 48,
    "k": 2,
    "init_r": 4,
    "target_r": 2,
    "tinit": 1,
    "tfinal": 3,
    "logging_steps": 1,
    "baseline": "none",
}


def fitting(usual: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Options with some changed; those of the usual ones that then have no effect are left out."""
    values = {
        name: None if value == "none" and name not in ("baseline", "task") else value
        for name, value in (usual | changed).items()
    }
    settings = RunSettings.from_options(values)
    return {
        name: value
        for name, value in (usual | changed).items()
        if name in changed or reason_against(settings, name) is None
    }


def small_options(more: Mapping[str, object] | None = None, **changed: object) -> list[str]:
    """Options of a training run that takes a second; `more` are usual ones as those of SMALL."""
    options = fitting(SMALL | dict(more or {}), changed)
    return [f"--{name}={value}" for name, value in options.items()]


def train(model: Path, folder: Path, *more: str, **changed: object) -> int:
    """Run `lora2 train` with options that take a second, and return its exit code."""
    return lora2(
        "train", f"--model={model}", f"--output_dir={folder}", *small_options(**changed), *more
    )


def saved_weights(run: Path) -> dict[str, torch.Tensor]:
    """The tensors that a run has saved of its adapter, or of what else it has trained."""
    (file,) = (run / "adapter").glob("*.safetensors")
    return load_file(file)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of the step after `step`."""
    original = RunTrainer.training_step

    def training_step(self, *arguments, **named):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    monkeypatch.setattr(RunTrainer, "training_step", training_step)
