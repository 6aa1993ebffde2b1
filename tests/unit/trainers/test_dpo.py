"""TRL's DPO: a reference pass through the same model, in training mode, before the backward one."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora2 import Lora2Callback, Lora2Config
from lora2.tuners.base.token_rows.finding import rows_of, trained_rows
from unit.models import disturb, layers_of

pytest.importorskip("trl", reason="the extra `sft` installs TRL")

ROWS = Dataset.from_dict(
    {"prompt": ["one two "] * 4, "chosen": ["three"] * 4, "rejected": ["four"] * 4}
)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_dpo_trains_against_the_adapter_that_it_started_from(
    language_model: Path, tmp_path: Path
) -> None:
    from trl import DPOConfig, DPOTrainer

    rows = {"trainable_token_indices": [40, 41]}
    config = Lora2Config(task_type="CAUSAL_LM", k=2, init_r=4, **rows)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(language_model), config)
    disturb(model)
    ((_, wrapper),) = trained_rows(model, "default")
    with torch.no_grad():
        rows_of(wrapper, "default").add_(0.1)
    start_rows = rows_of(wrapper, "default").detach().clone()
    start = {name: layer.get_delta_weight("default") for name, layer in layers_of(model).items()}
    arguments = DPOConfig(
        str(tmp_path), max_steps=8, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        logging_steps=1, bf16=False, save_strategy="no", learning_rate=3e-3,
    )  # fmt: skip
    assert arguments.gradient_checkpointing
    trainer = DPOTrainer(
        model, args=arguments, train_dataset=ROWS, callbacks=[Lora2Callback()],
        processing_class=AutoTokenizer.from_pretrained(language_model),
    )  # fmt: skip
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    # Before the first step both are the same, and the loss is -log σ(0).
    assert logs[0]["loss"] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-4)
    assert logs[-1]["loss"] < logs[0]["loss"] - 1e-3
    for name, layer in layers_of(model).items():
        torch.testing.assert_close(layer.get_delta_weight("ref"), start[name])
    assert torch.equal(rows_of(wrapper, "ref"), start_rows)
    assert not torch.equal(rows_of(wrapper, "default"), start_rows)
