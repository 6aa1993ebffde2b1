"""LoRA² in transformers' Trainer, TRL's SFTTrainer, a plain loop and accelerate."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from lora2 import Lora2Callback, Lora2Config, RankAllocator, UserError
from lora2.numerics import NumericalError
from unit.models import (
    Examples,
    adapter_state,
    bert_batch,
    disturb,
    layers_of,
    tiny_bert,
    tiny_llama,
)

TOTAL = 10
PRUNING: dict[str, Any] = {
    "k": 2,
    "init_r": 3,
    "target_r": 1,
    "tinit": 2,
    "tfinal": 3,
    "deltaT": 2,
}


def bert_model(**fields: object) -> PeftModel:
    base = tiny_bert(hidden_dropout_prob=0.1)
    torch.manual_seed(1)
    return get_peft_model(base, Lora2Config(**({"task_type": "SEQ_CLS"} | PRUNING | fields)))


def llama_model(**fields: object) -> PeftModel:
    base = tiny_llama()
    torch.manual_seed(1)
    return get_peft_model(base, Lora2Config(**({"task_type": "CAUSAL_LM"} | PRUNING | fields)))


def token_batch(size: int) -> dict[str, Tensor]:
    """Rows of a causal LM, each with another number of labels."""
    batch = bert_batch(size)
    labels = batch["input_ids"].clone()
    for row in range(size):
        labels[row, : row % 4] = -100
    return batch | {"labels": labels}


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    defaults = {
        "max_steps": TOTAL,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 5,
    }
    return TrainingArguments(str(folder), **(defaults | options))


def trainer_for(
    model: nn.Module,
    folder: Path,
    batch: dict[str, Tensor] | None = None,
    callbacks: tuple = (),
    **options: Any,
) -> Trainer:
    trainer = Trainer(
        model,
        arguments(folder, **options),
        train_dataset=Examples(batch or bert_batch(16)),
        eval_dataset=Examples(bert_batch(8, seed=1)),
        callbacks=[Lora2Callback(), *callbacks],
    )
    # BERT's loss is a mean although its forward takes `num_items_in_batch`; left alone,
    # transformers would add up the micro-batches' means.
    if trainer.model_accepts_loss_kwargs and not trainer._loss_shifts_labels:
        trainer.model_accepts_loss_kwargs = False
    return trainer


def callback_of(trainer: Trainer) -> Lora2Callback:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Lora2Callback))


# Schedule and logs


@pytest.mark.parametrize("accumulation", [1, 3])
def test_total_steps_are_learnt_and_each_optimizer_step_counts_once(
    accumulation: int, tmp_path: Path
) -> None:
    steps: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(callback_of(trainer).allocators["default"].completed_steps)

    trainer = trainer_for(
        bert_model(tinit=0.2, tfinal=0.4, deltaT=1),
        tmp_path,
        bert_batch(24),
        (Watch(),),
        max_steps=-1,
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
    )
    trainer.train()
    total = 2 * (24 // 4) // accumulation
    allocator = callback_of(trainer).allocators["default"]
    assert trainer.state.global_step == allocator.plan.total_steps == total
    assert steps == list(range(1, total + 1))
    assert (allocator.plan.warmup_steps, allocator.plan.final_steps) == (
        round(0.2 * total),
        round(0.4 * total),
    )
    assert allocator.finished
    assert allocator.kept == allocator.budget == 12


@pytest.mark.parametrize(
    ("make", "accumulation"), [(bert_model, 1), (bert_model, 3), (llama_model, 3)]
)
def test_logs_hold_task_loss_penalty_budget_and_kept_values(
    make: Callable[..., PeftModel], accumulation: int, tmp_path: Path
) -> None:
    batch = bert_batch(16) if make is bert_model else token_batch(16)
    model = make(orthogonality="penalty", orth_reg_weight=0.5)
    trainer = trainer_for(model, tmp_path, batch, gradient_accumulation_steps=accumulation)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == TOTAL
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["task_loss"] + entry["penalty"], rel=1e-5)
        # The head start of a random classifier or language model, not multiplied by anything.
        assert 0.3 < entry["task_loss"] < 5
        assert 0.1 < entry["penalty"] < 20
        assert entry["kept_singular_values"] == entry["budget"]
    budgets = [entry["budget"] for entry in logs]
    matrices = len(layers_of(model))
    assert budgets[:3] == [3 * matrices] * 3
    assert budgets[-4:] == [matrices] * 4
    saved = json.loads(json.dumps(logs))
    assert saved == logs


@pytest.mark.parametrize("orthogonality", ["exact", "none"])
def test_without_a_penalty_the_task_loss_is_the_loss(orthogonality: str, tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(orthogonality=orthogonality), tmp_path)
    trainer.train()
    for entry in trainer.state.log_history[:-1]:
        assert entry["task_loss"] == entry["loss"]
        assert "penalty" not in entry


def test_penalty_falls_in_training(tmp_path: Path) -> None:
    model = bert_model(orthogonality="penalty", orth_reg_weight=10.0, target_r=None)
    trainer = trainer_for(model, tmp_path, max_steps=30, learning_rate=3e-2)
    trainer.train()
    penalties = [entry["penalty"] for entry in trainer.state.log_history[:-1]]
    assert penalties[-1] < 0.3 * penalties[0]


# Where the penalty belongs


def with_penalty(kind: str) -> tuple[nn.Module, nn.Module]:
    """A model in penalty mode, and what knows its penalty."""
    fields = {**PRUNING, "orthogonality": "penalty", "orth_reg_weight": 3.0, "target_r": None}
    if kind == "transformers":
        model = tiny_bert()
        model.add_adapter(Lora2Config(**fields))
    else:
        task = {"task_type": "SEQ_CLS"} if kind == "with_task" else {}
        model = get_peft_model(tiny_bert(), Lora2Config(**fields, **task))
    disturb(model)
    return model, model


@pytest.mark.parametrize("kind", ["with_task", "without_task", "transformers"])
def test_penalty_is_in_the_training_loss_only(kind: str) -> None:
    from lora2.training_hook import weighted_penalty

    model, _ = with_penalty(kind)
    base = model if kind == "transformers" else model.get_base_model()
    batch = bert_batch()
    penalty = weighted_penalty(base)
    outputs = model.train()(**batch)
    task_loss = nn.functional.cross_entropy(outputs.logits, batch["labels"])
    assert penalty.item() > 1
    torch.testing.assert_close(outputs.loss, task_loss + penalty)
    torch.testing.assert_close(outputs["loss"], outputs.loss)
    # Not without gradients, in evaluation, or for a frozen adapter.
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, task_loss)
    torch.testing.assert_close(model.eval()(**batch).loss, task_loss)
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(model(**batch).loss, task_loss)


def test_penalty_is_not_in_the_loss_while_disabled() -> None:
    model, _ = with_penalty("with_task")
    batch = bert_batch()
    model.train()
    with model.disable_adapter():
        outputs = model(**batch)
    torch.testing.assert_close(
        outputs.loss, nn.functional.cross_entropy(outputs.logits, batch["labels"])
    )


def test_penalty_is_not_in_the_evaluation_loss(tmp_path: Path) -> None:
    model = bert_model(orthogonality="penalty", orth_reg_weight=3.0)
    trainer = trainer_for(model, tmp_path, eval_strategy="steps", eval_steps=2)
    trainer.train()
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert len(losses) == TOTAL // 2
    assert max(losses) < 3
    batch = bert_batch(8, seed=1)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    expected = nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_penalty_is_callable_for_a_loss_of_ones_own() -> None:
    model, _ = with_penalty("with_task")
    outputs = model.train()(**bert_batch())
    loss = outputs.logits.square().mean() + model.base_model.weighted_penalty()
    loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora2_v" in n)


def test_hook_leaves_with_the_adapter() -> None:
    model, _ = with_penalty("with_task")
    base = model.merge_and_unload().train()
    batch = bert_batch()
    outputs = base(**batch)
    torch.testing.assert_close(
        outputs.loss, nn.functional.cross_entropy(outputs.logits, batch["labels"])
    )
    assert not base._forward_hooks


# Refusals


def test_model_without_a_trained_adapter_is_refused_at_the_start(tmp_path: Path) -> None:
    trainer = trainer_for(tiny_bert(), tmp_path)
    with pytest.raises(UserError, match="found no trainable LoRA² adapter"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_schedule_that_cannot_fit_is_refused_at_the_start(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(tinit=6, tfinal=6), tmp_path)
    before = adapter_state(trainer.model)
    with pytest.raises(UserError, match=r"tinit=6 and tfinal=6 take 6 \+ 6 of the 10"):
        trainer.train()
    assert trainer.state.global_step == 0
    after = adapter_state(trainer.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("max_grad_norm", [0, 1])
def test_nan_gradient_stops_with_the_name_of_the_layer(
    max_grad_norm: float, tmp_path: Path
) -> None:
    """Clipping spreads a NaN to all gradients, and so does the trainer's gradient norm."""
    model = bert_model()
    name, layer = list(layers_of(model).items())[7]

    def spoil(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    layer.register_forward_hook(spoil)
    trainer = trainer_for(model, tmp_path, max_grad_norm=max_grad_norm)
    before = adapter_state(model)
    with pytest.raises(NumericalError, match=f"the gradient of {name}: lower"):
        trainer.train()
    after = adapter_state(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())


def test_nan_gradient_of_any_factor_stops_the_training(tmp_path: Path) -> None:
    model = bert_model()
    layer = list(layers_of(model).values())[7]
    layer.lora2_u["default"].register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(NumericalError, match=r"the gradient of base_model\.model\.bert"):
        trainer_for(model, tmp_path).train()


# Interruption


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with a checkpoint of every step, and the adapter at the end."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_for(bert_model(lora_dropout=0.1), folder, save_strategy="steps", save_steps=1)
    trainer.train()
    return folder, adapter_state(trainer.model)


@pytest.mark.parametrize("step", [1, 3, 4, 6, 7, 9])
def test_resumed_run_ends_bit_for_bit_as_the_whole_one(
    step: int, whole_run: tuple, tmp_path: Path
) -> None:
    folder, expected = whole_run
    trainer = trainer_for(bert_model(lora_dropout=0.1), tmp_path)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    actual = adapter_state(trainer.model)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_resumed_run_with_restored_callbacks_is_the_same(whole_run: tuple, tmp_path: Path) -> None:
    folder, expected = whole_run
    trainer = trainer_for(
        bert_model(lora_dropout=0.1), tmp_path, restore_callback_states_from_checkpoint=True
    )
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    actual = adapter_state(trainer.model)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_every_checkpoint_reloads_as_the_model_it_was(whole_run: tuple) -> None:
    folder, _ = whole_run
    kept = []
    for step in range(1, TOTAL + 1):
        checkpoint = folder / f"checkpoint-{step}"
        reloaded = PeftModel.from_pretrained(tiny_bert(), checkpoint)
        values = [layer.lora2_lambda["default"] for layer in layers_of(reloaded).values()]
        # A checkpoint keeps the pruned values: the optimizer's state has their size.
        assert {len(value) for value in values} == {3}
        kept.append(sum(int((value != 0).sum()) for value in values))
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert state["log_history"][-1]["kept_singular_values"] == kept[-1]
    assert kept[:3] == [36] * 3
    assert kept[-4:] == [12] * 4


def test_finished_run_is_compact_in_memory_and_on_disk(whole_run: tuple, tmp_path: Path) -> None:
    _, state = whole_run
    assert sum(len(tensor) for name, tensor in state.items() if name.endswith(".lam")) == 12
    trainer = trainer_for(bert_model(), tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    reloaded = PeftModel.from_pretrained(tiny_bert(), tmp_path / "saved").eval()
    batch = bert_batch()
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, trainer.model.eval()(**batch).logits)
    assert sum(len(layer.lora2_lambda["default"]) for layer in layers_of(reloaded).values()) == 12


def test_best_model_can_be_loaded_at_the_end(tmp_path: Path) -> None:
    trainer = trainer_for(
        bert_model(), tmp_path,
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss",
    )  # fmt: skip
    trainer.train()
    best = min(e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, abs=1e-5)


def test_unallocated_budget_is_told_once_and_its_checkpoint_refused(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(), tmp_path, save_strategy="steps", save_steps=5)
    trainer.remove_callback(Lora2Callback)
    with pytest.warns(UserWarning, match="nothing prunes it: add Lora2Callback") as told:
        trainer.train()
    assert len([w for w in told if "nothing prunes it" in str(w.message)]) == 1
    resumed = trainer_for(bert_model(), tmp_path)
    with pytest.raises(UserError, match="step 5 holds no allocator state of adapter 'default'"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@pytest.mark.parametrize("kind", ["without_task", "transformers"])
def test_unallocated_budget_is_told_in_every_kind_of_model(kind: str) -> None:
    model = tiny_bert()
    if kind == "transformers":
        model.add_adapter(Lora2Config(**PRUNING))
    else:
        model = get_peft_model(model, Lora2Config(**PRUNING))
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def steps(number: int) -> None:
        for _ in range(number):
            model(**bert_batch()).loss.backward()
            optimizer.step()

    # At the first step λ has no gradient yet, since 𝒱 is zero.
    with pytest.warns(UserWarning, match="nothing prunes it") as told:
        steps(4)
    assert len(told) == 1


def test_nobody_is_told_when_nothing_is_to_be_pruned(tmp_path: Path) -> None:
    trainer = trainer_for(bert_model(target_r=None), tmp_path)
    trainer.remove_callback(Lora2Callback)
    trainer.train()


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
