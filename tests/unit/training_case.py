"""Models and trainers with a pruning schedule, for the tests of trainers and loops."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from lora2 import Lora2Callback, Lora2Config
from unit.tiny_transformers import Examples, bert_batch, tiny_bert, tiny_llama

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
    if trainer.model.config.model_type == "bert":
        trainer.model_accepts_loss_kwargs = False
    return trainer


def callback_of(trainer: Trainer) -> Lora2Callback:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Lora2Callback))
