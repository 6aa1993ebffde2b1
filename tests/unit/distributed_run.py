"""Two trainings that one process or several do alike, under accelerate.

Every process writes what it ends with: `python distributed_run.py FOLDER`.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from transformers import Trainer, TrainingArguments

from lora2 import Lora2Callback, Lora2Config, RankAllocator
from unit.models import adapter_state, disturb
from unit.tiny_transformers import Examples, bert_batch, tiny_bert

STEPS = 8
JOINT_BATCH = 8


def adapted_model(orthogonality: str) -> PeftModel:
    """A classifier with a pruned adapter; its loss is large enough to move everything."""
    base = tiny_bert()
    torch.manual_seed(1)
    config = Lora2Config(
        task_type="SEQ_CLS", orthogonality=orthogonality,
        k=2, init_r=3, target_r=1, tinit=1, tfinal=2, deltaT=2,
    )  # fmt: skip
    model = get_peft_model(base, config)
    disturb(model)
    return model


def with_trainer(folder: Path, processes: int) -> dict[str, Tensor]:
    """Train with transformers' Trainer; return the adapter at the end."""
    arguments = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=JOINT_BATCH // processes,
        optim="sgd", learning_rate=0.02, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False, logging_strategy="no",
        ddp_find_unused_parameters=False,
    )  # fmt: skip
    model = adapted_model("exact")
    data = Examples(bert_batch(STEPS * JOINT_BATCH))
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[Lora2Callback()])
    # BERT's loss is a mean, whatever its forward takes.
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    return adapter_state(model)


def with_accelerate(processes: int, rank: int) -> dict[str, Tensor]:
    """Train in a loop of one's own, in penalty mode; return the adapter at the end."""
    accelerator = Accelerator(cpu=True)
    model = adapted_model("penalty").train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    allocator = RankAllocator(model, total_steps=STEPS)
    for step in range(STEPS):
        batch = bert_batch(JOINT_BATCH, seed=step)
        mine = {name: tensor.chunk(processes)[rank] for name, tensor in batch.items()}
        accelerator.backward(wrapped(**mine).loss)
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    return adapter_state(model)


def main(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    processes, rank = accelerator.num_processes, accelerator.process_index
    for name, state in (
        ("trainer", with_trainer(folder / "run", processes)),
        ("accelerate", with_accelerate(processes, rank)),
    ):
        whole = {key: tensor.contiguous() for key, tensor in state.items()}
        save_file(whole, folder / f"{name}-{rank}-of-{processes}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
