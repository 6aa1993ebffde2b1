"""Trains one adapter on every engine that is asked for, and writes what comes of it.

    engine_run.py FOLDER CASE...

It is run in one process, or in several that know each other as `torchrun` tells them.

A CASE is an engine and a form, as fsdp2/penalty; with @START it is resumed from the checkpoint that
another run left in the folder START. In FOLDER, each case gets a folder, in `resumed` if it is:
`adapter-RANK.safetensors`, the factors at the end; `again-RANK.safetensors`, those of a training
resumed in its middle; `logits.safetensors`, what the model computes at the end; `saved`, what
save_pretrained writes; `checkpoint.pt`; and `outcome-RANK.json`, with the sentence that refused the
training, if one did.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.distributed import DistributedConfig

from lora2 import Lora2Callback, Lora2Config, RankAllocator, compact_adapter
from lora2.errors import NumericalError, UserError

STEPS, MIDDLE, JOINT_BATCH, TARGET = 8, 4, 8, 16
# Tensor parallelism splits these of a Llama by rows and by columns.
_MATRICES = ["q_proj", "o_proj", "up_proj", "down_proj"]
# Options of an engine that name what it trains, in place of a Llama.
MODELS = ("mixtral", "qwen3moe", "tokens", "tied")
_TRAINED_ROWS: dict[str, Any] = {
    "tokens": {"embed_tokens": [3, 5], "lm_head": [4]}, "tied": [3, 5],
}  # fmt: skip
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip
# A few of the experts get tokens in one process alone, or in none, in many a step.
_EXPERTS: dict[str, Any] = {
    "num_hidden_layers": 1, "num_experts_per_tok": 2, "num_key_value_heads": 2, "head_dim": 8,
    "moe_intermediate_size": 16,
}  # fmt: skip


def model_named(engine: str) -> str:
    """Return which of the models an engine is to train."""
    return next((name for name in MODELS if name in engine.split("-")), "llama")


def base_model(engine: str = "one") -> PreTrainedModel:
    torch.manual_seed(0)
    name = model_named(engine)
    if name == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**_SIZES | _EXPERTS, num_local_experts=16))
    if name == "qwen3moe":
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SIZES | _EXPERTS, num_experts=16))
    return LlamaForCausalLM(LlamaConfig(**_SIZES, tie_word_embeddings=name == "tied"))


def tensor_parallel_model() -> LlamaForCausalLM:
    """The base model, loaded by transformers with its weights split over the processes."""
    with TemporaryDirectory() as folder:
        # `save_pretrained` writes in the first process alone.
        base = base_model()
        base.config.save_pretrained(folder)
        save_file(base.state_dict(), Path(folder) / "model.safetensors", {"format": "pt"})
        config = DistributedConfig(tp_size=dist.get_world_size())
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
            folder, distributed_config=config
        )
        dist.barrier()
    return model


def adapted_model(form: str, engine: str = "one") -> PeftModel:
    """Eight matrices of a Llama, or another model's, with 4 singular values; half are pruned."""
    base = tensor_parallel_model() if engine.startswith("tp") else base_model(engine)
    if engine == "fsdp2-late":
        fully_shard(base)
    torch.manual_seed(1)
    config = Lora2Config(
        task_type="CAUSAL_LM", orthogonality=form, init_weights=False,
        target_modules=_MATRICES if isinstance(base, LlamaForCausalLM) else "all-linear",
        k=4, init_r=4, target_r=2, tinit=1, tfinal=2, deltaT=2,
        lora_dropout=0.1 if "dropout" in engine.split("-") else 0,
        trainable_token_indices=_TRAINED_ROWS.get(model_named(engine)),
    )  # fmt: skip
    return get_peft_model(base, config).train()


def batch(step: int) -> Tensor:
    """The tokens of all processes, [JOINT_BATCH, 12]."""
    return torch.randint(0, 64, (JOINT_BATCH, 12), generator=torch.Generator().manual_seed(step))


def wrapped(engine: str, model: PeftModel) -> nn.Module:
    """Return the module to call, which an engine may have made of the model."""
    name, *options = engine.split("-")
    layers: Any = model.get_base_model().model.layers
    if "checkpointed" in options or "reentrant" in options:
        reentrant = {"use_reentrant": "reentrant" in options}
        model.get_base_model().gradient_checkpointing_enable(reentrant)
        model.enable_input_require_grads()
    if name == "ddp":
        return DistributedDataParallel(model)
    if name == "fsdp1":
        use_orig_params = "orig" in options
        # The base is frozen, which one flat parameter with the adapter could not be.
        return FullyShardedDataParallel(
            model, use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
    if name == "fsdp2":
        kept: dict[str, Any] = {"reshard_after_forward": False} if "kept" in options else {}
        if "offload" in options:
            kept["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
        if "mixed" in options:
            kept["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        for layer in () if "root" in options else layers:
            fully_shard(layer, **kept)
        if "tokens" in options:
            # As accelerate shards it.
            fully_shard(model.get_base_model().lm_head, **kept)
        fully_shard(model, **kept)
    return model


class Training:
    """One training on one engine, which can stop and go on anywhere."""

    def __init__(self, engine: str, form: str) -> None:
        self.processes = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.engine, self.model = engine, adapted_model(form, engine)
        if engine.startswith("tp"):
            # All processes of tensor parallelism have the whole batch.
            self.processes = 1
        self.called = wrapped(engine, self.model)
        trained = [p for p in self.called.parameters() if p.requires_grad]
        # A forward pass without a backward pass leaves parameters whole there until the next one.
        self.evaluates = "kept" in engine.split("-")
        # Each operation on a sharded tensor is slow, and one on a list of hundreds is slower.
        self.optimizer = torch.optim.AdamW(trained, lr=5e-3, foreach=len(trained) < 100)
        self.allocator = RankAllocator(self.called, STEPS, resumable=True)

    def run(self, first: int, last: int) -> Iterator[int]:
        for step in range(first, last):
            mine = batch(step).chunk(self.processes)[self.rank % self.processes]
            if self.evaluates:
                with torch.no_grad():
                    self.called(input_ids=mine)
            extra = self._loss_of_head()
            loss = self.called(input_ids=mine, labels=mine, use_cache=False).loss
            (loss + extra).backward()
            self.optimizer.step()
            self.allocator.step()
            self.optimizer.zero_grad()
            yield step + 1

    def _loss_of_head(self) -> Tensor | float:
        """Return a loss of a head with rows of its own, read and not called, as TRL does it."""
        if model_named(self.engine) != "tokens":
            return 0.0
        weight: Tensor = self.model.get_base_model().lm_head.weight
        return weight[4].square().sum()

    def adapter(self) -> dict[str, Tensor]:
        """All factors as wholes."""
        state = get_peft_model_state_dict(self.model)
        return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}

    def save(self, path: Path) -> None:
        """Write all that a training needs to be resumed, as wholes, in process 0."""
        model, optimizer = get_state_dict(self.model, self.optimizer, options=_WHOLE)
        allocator = self.allocator.state_dict()
        if self.rank == 0:
            state = {"model": model, "optimizer": optimizer, "allocator": allocator}
            torch.save(state, path / "checkpoint.pt")

    def load(self, path: Path) -> None:
        """Go on from what another training wrote there."""
        checkpoint = torch.load(path / "checkpoint.pt", weights_only=False)
        set_state_dict(
            self.model, self.optimizer, model_state_dict=checkpoint["model"],
            optim_state_dict=checkpoint["optimizer"], options=_WHOLE,
        )  # fmt: skip
        self.allocator.load_state_dict(checkpoint["allocator"])


class CallbackTraining(Training):
    """The same, as a trainer calls the callback."""

    def __init__(self, engine: str, form: str) -> None:
        super().__init__(engine, form)
        self.callback, self.control = Lora2Callback(), TrainerControl()
        self.state = TrainerState(max_steps=STEPS)
        with TemporaryDirectory() as folder:
            self.arguments = TrainingArguments(folder, use_cpu=True, report_to=[])
        self._tell(self.callback.on_train_begin)
        self.allocator = self.callback.allocators["default"]
        self.has_nan = "nan" in engine.split("-")

    def run(self, first: int, last: int) -> Iterator[int]:
        for step in range(first, last):
            self.state.global_step = step
            mine = batch(step).chunk(self.processes)[self.rank % self.processes]
            loss = self.called(input_ids=mine, labels=mine, use_cache=False).loss
            if self.has_nan and step == MIDDLE and self.rank == 1:
                loss = loss * float("nan")
            loss.backward()
            self._tell(self.callback.on_pre_optimizer_step)
            self.optimizer.step()
            self._tell(self.callback.on_optimizer_step)
            self.optimizer.zero_grad()
            self.state.global_step += 1
            yield step + 1

    def _tell(self, event: Any) -> None:
        event(self.arguments, self.state, self.control, model=self.model, optimizer=self.optimizer)


def new_training(engine: str, form: str) -> Training:
    if engine.startswith("zero"):
        sys.path.insert(0, str(Path(__file__).parent))
        from zero_training import ZeroTraining

        return ZeroTraining(engine, form)
    is_driven = {"callback", "nan"} & set(engine.split("-"))
    return (CallbackTraining if is_driven else Training)(engine, form)


def run_case(case: str, path: Path, start: Path | None) -> None:
    engine, form = case.split("/")
    training = new_training(engine, form)
    first = 0
    if start is not None:
        first = MIDDLE
        training.load(start / case)
    for step in training.run(first, STEPS):
        if step == MIDDLE:
            training.save(path)
            if dist.is_initialized():
                dist.barrier()
    save_file(training.adapter(), path / f"adapter-{training.rank}.safetensors")
    if start is not None:
        return
    # DeepSpeed's `eval` returns nothing.
    training.called.eval()
    with torch.no_grad():
        before = logits(training.called)
        save_file({"logits": before}, path / "logits.safetensors")
    if engine == "tp":
        check_merged(training, before)
    again = new_training(engine, form)
    again.load(path)
    list(again.run(MIDDLE, STEPS))
    save_file(again.adapter(), path / f"again-{training.rank}.safetensors")
    if "merge" in engine.split("-"):
        training.model.merge_adapter()
    compact_adapter(training.model)
    training.model.save_pretrained(
        str(path / "saved"), is_main_process=training.rank == 0, save_embedding_layers=False
    )


def check_merged(training: Training, before: Tensor) -> None:
    """Check that the model computes the same while the adapter is in its split weights."""
    with torch.no_grad():
        training.model.merge_adapter()
        torch.testing.assert_close(logits(training.called), before, atol=1e-5, rtol=1e-5)
        training.model.unmerge_adapter()
        torch.testing.assert_close(logits(training.called), before, atol=1e-5, rtol=1e-5)


def logits(model: nn.Module) -> Tensor:
    output: Tensor = model(input_ids=batch(99), use_cache=False).logits.detach().float()
    return output.contiguous()


def main(folder: Path, words: list[str]) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    for word in words:
        case, _, start = word.partition("@")
        path = (folder / "resumed" if start else folder) / case
        path.mkdir(parents=True, exist_ok=True)
        refusal = None
        try:
            run_case(case, path, Path(start) if start else None)
        # Of torch the last; the test of the table says what each engine is refused with.
        except (UserError, NumericalError, ValueError) as error:
            refusal = str(error)
        outcome = path / f"outcome-{os.environ.get('RANK', 0)}.json"
        outcome.write_text(json.dumps({"refusal": refusal}))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    place, *cases = sys.argv[1:]
    main(Path(place), cases)
