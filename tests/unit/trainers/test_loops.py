"""LoRA² in TRL's SFTTrainer, a plain loop and accelerate, with accumulated gradients too."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from lora2 import Lora2Callback, Lora2Config, RankAllocator
from lora2.errors import UserError
from unit.models import adapter_state, disturb, layers_of
from unit.tiny_transformers import bert_batch, tiny_bert, tiny_llama
from unit.training_case import (
    PRUNING,
    TOTAL,
    bert_model,
    callback_of,
    llama_model,
    token_batch,
    trainer_for,
)
from upstream import ADAPTERS_OF_TRANSFORMERS

pytestmark = pytest.mark.slow

# Gradient accumulation


@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
@pytest.mark.parametrize("make", [bert_model, llama_model])
def test_accumulated_micro_batches_equal_the_whole_batch(
    make: Callable[..., PeftModel], orthogonality: str, tmp_path: Path
) -> None:
    batch = bert_batch(64) if make is bert_model else token_batch(64)
    states, kept = [], []
    for size, accumulation in ((8, 4), (32, 1)):
        model = make(orthogonality=orthogonality)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        disturb(model)
        trainer = trainer_for(
            model,
            tmp_path,
            batch,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.005,
        )
        trainer.train()
        states.append(adapter_state(model))
        kept.append(callback_of(trainer).allocators["default"].kept_by_module())
        assert callback_of(trainer).allocators["default"].completed_steps == TOTAL
    assert kept[0] == kept[1]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-5, rtol=1e-5)


# Other trainers and loops


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{index}" for index in range(26))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip


@pytest.mark.parametrize("orthogonality", ["exact", "penalty"])
def test_sft_trainer_prunes_and_logs(orthogonality: str, tmp_path: Path) -> None:
    texts = [" ".join(f"w{(7 * row + col) % 26}" for col in range(6)) for row in range(16)]
    trainer = SFTTrainer(
        model=tiny_llama(),
        args=SFTConfig(
            str(tmp_path),
            max_steps=TOTAL,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            max_length=16,
        ),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=word_tokenizer(),
        peft_config=Lora2Config(**PRUNING, orthogonality=orthogonality, task_type="CAUSAL_LM"),
        callbacks=[Lora2Callback()],
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "task_loss" in entry]
    assert len(logs) == TOTAL
    assert logs[-1]["kept_singular_values"] == logs[-1]["budget"] == 14
    assert ("penalty" in logs[0]) == (orthogonality == "penalty")
    assert all(math.isfinite(entry["loss"]) and entry["task_loss"] < 6 for entry in logs)
    trainer.model.merge_adapter()
    trainer.model.unmerge_adapter()


@ADAPTERS_OF_TRANSFORMERS
def test_trainer_takes_an_adapter_that_transformers_added(tmp_path: Path) -> None:
    model = tiny_bert()
    model.add_adapter(Lora2Config(**PRUNING, orthogonality="penalty"))
    trainer = trainer_for(model, tmp_path)
    trainer.train()
    assert trainer.state.log_history[-2]["kept_singular_values"] == 12
    assert trainer.state.log_history[-2]["penalty"] > 0


def test_trainer_prunes_every_trained_adapter(tmp_path: Path) -> None:
    # Without a task: PEFT trains the head of one adapter at a time only.
    model = bert_model(task_type=None)
    model.add_adapter("other", Lora2Config(**(PRUNING | {"target_r": 2})))
    model.base_model.set_adapter(["default", "other"])
    trainer = trainer_for(model, tmp_path)
    trainer.train()
    last = trainer.state.log_history[-2]
    assert last["kept_singular_values/default"] == 12
    assert last["kept_singular_values/other"] == 24


def loop_batches() -> list[dict[str, Tensor]]:
    return [bert_batch(8, seed=step) for step in range(TOTAL)]


def plain_loop() -> PeftModel:
    model = bert_model(orthogonality="penalty").train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    allocator = RankAllocator(model, total_steps=TOTAL)
    torch.manual_seed(2)
    for batch in loop_batches():
        model(**batch).loss.backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    assert allocator.kept == 12
    return model


def test_plain_loop_needs_one_call_after_the_optimizer_step() -> None:
    values = [layer.lora2_lambda["default"] for layer in layers_of(plain_loop()).values()]
    assert sum(int((value != 0).sum()) for value in values) == 12


def test_accelerate_loop_gives_what_the_plain_loop_gives() -> None:
    accelerator = Accelerator(cpu=True)
    model = bert_model(orthogonality="penalty").train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    allocator = RankAllocator(accelerator.unwrap_model(model), total_steps=TOTAL)
    torch.manual_seed(2)
    for batch in loop_batches():
        accelerator.backward(model(**batch).loss)
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    expected, actual = adapter_state(plain_loop()), adapter_state(model)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def accumulating(prepares: bool) -> RankAllocator:
    """The accelerate loop with two micro-batches to an optimizer step."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = bert_model().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    if prepares:
        model, optimizer = accelerator.prepare(model, optimizer)
    allocator = RankAllocator(model, total_steps=TOTAL)
    micro_batches = [batch for batch in loop_batches() for _ in range(2)]
    for number, batch in enumerate(micro_batches):
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            allocator.step()
            optimizer.zero_grad()
        assert allocator.completed_steps == (number + 1) // 2
    return allocator


@pytest.fixture
def accelerate_state() -> Iterator[None]:
    """Leave accelerate as a fresh process has it: what accumulates is a global of it."""
    yield
    GradientState._reset_state()


@pytest.mark.usefixtures("accelerate_state")
def test_a_micro_batch_after_which_the_optimizer_does_not_step_does_not_count() -> None:
    allocator = accumulating(prepares=True)
    assert allocator.finished
    assert allocator.kept == 12


@pytest.mark.usefixtures("accelerate_state")
def test_an_optimizer_that_accelerate_does_not_hold_back_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer: .* pass it through accelerator.prepare\(\)"):
        accumulating(prepares=False)
