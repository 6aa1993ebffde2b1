"""Adapters inside other modules: of one's own, wrappers, SentenceTransformers, two PEFT models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

import lora2
from lora2 import (
    Lora2Callback,
    Lora2Config,
    RankAllocator,
    SoraCallback,
    SoraConfig,
    UserError,
    compact_adapter,
    export_lora,
    export_merged,
)
from lora2.tuners.base.model.placement import find_adapters
from lora2.tuners.lora2.forward_hook import hooks_in
from lora2.tuners.sora import prune_gates
from unit.models import disturb, layers_of
from unit.tiny_transformers import Examples, bert_batch, tiny_bert
from unit.training_case import PRUNING, TOTAL, arguments, bert_model, callback_of
from upstream import ADAPTERS_OF_TRANSFORMERS

pytestmark = pytest.mark.slow

MATRICES = 12  # of a tiny BERT


class Own(nn.Module):
    """A module of one's own around a model; its loss is the model's, or computed here."""

    def __init__(self, body: nn.Module, computes_loss: bool = False) -> None:
        super().__init__()
        self.body, self.computes_loss = body, computes_loss

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Any]:
        if not self.computes_loss:
            outputs = self.body(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            return {"loss": outputs.loss, "logits": outputs.logits}
        logits = self.body(input_ids=input_ids, attention_mask=attention_mask).logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Two(nn.Module):
    """Two models whose logits are added up."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        bodies = self.first, self.second
        logits = sum(body(input_ids, attention_mask).logits for body in bodies)
        return {"loss": nn.functional.cross_entropy(logits, labels)}


def with_add_adapter() -> nn.Module:
    base = tiny_bert()
    base.add_adapter(Lora2Config(**PRUNING))
    return base


def prepared() -> nn.Module:
    return Accelerator(cpu=True).prepare(bert_model())


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "own_module": lambda: Own(bert_model()),
    "own_module_around_add_adapter": lambda: Own(with_add_adapter()),
    "distributed": lambda: DistributedDataParallel(bert_model()),
    "distributed_own_module": lambda: DistributedDataParallel(Own(bert_model())),
    "prepared_by_accelerate": prepared,
    "compiled": lambda: torch.compile(bert_model(), backend="eager"),
    "compiled_own_module": lambda: torch.compile(Own(bert_model()), backend="eager"),
    "list": lambda: nn.ModuleList([nn.Linear(2, 2), bert_model()]),
}


def wrapped(*kinds: str) -> pytest.MarkDecorator:
    """A test for each of these kinds."""
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=ADAPTERS_OF_TRANSFORMERS if "add_adapter" in kind else ())
            for kind in kinds
        ],
    )


def kept(model: nn.Module) -> int:
    return sum(
        int((layer.lora2_lambda["default"] != 0).sum()) for layer in layers_of(model).values()
    )


def train(model: nn.Module, folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    trainer = Trainer(
        model,
        arguments(folder, **options),
        train_dataset=Examples(bert_batch(16)),
        callbacks=list(callbacks),
    )
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    return trainer


@pytest.mark.usefixtures("process_group")
@wrapped(*WRAPPED)
def test_allocator_prunes_adapters_of_every_wrapped_model(kind: str) -> None:
    model = WRAPPED[kind]().train()
    allocator = RankAllocator(model, TOTAL)
    assert allocator.kept == 3 * MATRICES
    assert list(allocator.kept_by_module()) == list(layers_of(model))
    # Compiling takes seconds, and it is the wrapper that matters here.
    caller = model[1] if isinstance(model, nn.ModuleList) else getattr(model, "_orig_mod", model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(TOTAL):
        outputs = caller(**bert_batch(seed=step))
        outputs["loss"].backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    assert kept(model) == allocator.kept == allocator.budget == MATRICES
    # By the training hook, which runs inside every wrapper.
    assert all("default" in layer.lora2_prepared for layer in layers_of(model).values())


@wrapped("own_module", "own_module_around_add_adapter")
def test_callback_prunes_adapters_of_every_wrapped_model(kind: str, tmp_path: Path) -> None:
    model = WRAPPED[kind]()
    trainer = train(model, tmp_path, Lora2Callback())
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["kept_singular_values"] for entry in logs] == [entry["budget"] for entry in logs]
    assert kept(model) == logs[-1]["budget"] == MATRICES
    assert list(callback_of(trainer).allocators) == ["default"]


def test_names_of_a_peft_model_are_those_of_its_modules() -> None:
    """What checkpoints and summaries of today hold."""
    model = bert_model()
    for given in (model, model.get_base_model()):
        assert list(RankAllocator(given, TOTAL).kept_by_module()) == list(layers_of(given))
    (adapter,) = find_adapters(model, Lora2Config)
    assert (adapter.label, adapter.outer, adapter.base) == ("default", "", "base_model.model")
    assert adapter.module is model
    assert adapter.config is model.peft_config["default"]


def test_resumed_training_of_an_own_module_ends_bit_for_bit_as_the_whole_one(
    tmp_path: Path,
) -> None:
    options = {"save_strategy": "steps", "save_steps": 5}
    whole = Own(bert_model())
    train(whole, tmp_path, Lora2Callback(), **options)
    resumed = Own(bert_model())
    trainer = Trainer(
        resumed, arguments(tmp_path / "resumed"), train_dataset=Examples(bert_batch(16)),
        callbacks=[Lora2Callback()],
    )  # fmt: skip
    trainer.model_accepts_loss_kwargs = False
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())


def test_state_dict_of_a_pruned_own_module_is_loaded_into_a_new_one(tmp_path: Path) -> None:
    model = Own(bert_model())
    train(model, tmp_path, Lora2Callback())
    assert sum(len(layer.lora2_lambda["default"]) for layer in layers_of(model).values()) == 12
    again = Own(bert_model())
    again.load_state_dict(model.state_dict())
    batch = bert_batch()
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch)["logits"], model.eval()(**batch)["logits"])
    other = Own(bert_model(k=3))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(model.state_dict())


# The penalty and warnings


@pytest.mark.parametrize("computes_loss", [False, True])
def test_penalty_joins_the_loss_of_an_own_module_once(computes_loss: bool, tmp_path: Path) -> None:
    body = bert_model(orthogonality="penalty", orth_reg_weight=3.0)
    disturb(body)
    model = Own(body, computes_loss)
    before = [len(model._forward_hooks), len(model._forward_pre_hooks)]
    penalty = lora2.weighted_penalty(model)
    assert penalty is not None
    for hook in hooks_in(model):
        hook.was_asked = False
    trainer = train(model, tmp_path, Lora2Callback(), max_steps=6, learning_rate=1e-9)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logs:
        assert entry["penalty"] == pytest.approx(penalty.item(), rel=1e-3)
        assert entry["loss"] == pytest.approx(entry["task_loss"] + entry["penalty"], rel=1e-5)
        assert entry["task_loss"] < 3
    assert [len(model._forward_hooks), len(model._forward_pre_hooks)] == before


def test_penalty_that_joins_no_loss_is_warned_of_once(tmp_path: Path) -> None:
    """Of label smoothing the trainer computes the loss from the logits."""
    model = bert_model(orthogonality="penalty")
    with pytest.warns(UserWarning, match=r"Add lora2.weighted_penalty\(model\) to") as caught:
        train(model, tmp_path, Lora2Callback(), label_smoothing_factor=0.1)
    assert len(caught) == 1


def test_penalty_that_was_asked_for_is_not_warned_of(tmp_path: Path) -> None:
    model = bert_model(orthogonality="penalty")

    class WithPenalty(Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict, *_: Any, **__: Any) -> Tensor:
            logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
            penalty = lora2.weighted_penalty(model)
            return nn.functional.cross_entropy(logits, inputs["labels"]) + penalty

    WithPenalty(
        model, arguments(tmp_path), train_dataset=Examples(bert_batch(16)),
        callbacks=[Lora2Callback()],
    ).train()  # fmt: skip
    assert kept(model) == MATRICES


def test_unallocated_budget_of_an_own_module_is_warned_of(tmp_path: Path) -> None:
    model = Own(bert_model())
    with pytest.warns(UserWarning, match="nothing prunes it: add Lora2Callback") as caught:
        train(model, tmp_path)
    assert len(caught) == 1


# Two PEFT models in one module


def test_callback_gives_each_of_two_peft_models_its_own_budget(tmp_path: Path) -> None:
    fields = {"orthogonality": "penalty"}
    model = Two(bert_model(**fields), bert_model(**fields, target_r=2, k=3, importance="full"))
    trainer = train(model, tmp_path, Lora2Callback(), save_strategy="steps", save_steps=5)
    assert (kept(model.first), kept(model.second)) == (MATRICES, 2 * MATRICES)
    assert list(callback_of(trainer).allocators) == ["first.default", "second.default"]
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert last["kept_singular_values/first.default"] == MATRICES
    assert last["budget/second.default"] == 2 * MATRICES
    # Neither returns a loss, and both penalties are in the sum's.
    assert last["penalty"] > 0.5

    again = Two(bert_model(**fields), bert_model(**fields, target_r=2, k=3, importance="full"))
    resumed = Trainer(
        again, arguments(tmp_path / "resumed"), train_dataset=Examples(bert_batch(16)),
        callbacks=[Lora2Callback()],
    )  # fmt: skip
    resumed.model_accepts_loss_kwargs = False
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_an_adapter_of_the_same_name_that_is_frozen_is_not_pruned(tmp_path: Path) -> None:
    model = Two(bert_model(), bert_model(inference_mode=True))
    assert RankAllocator(model, TOTAL).kept == 3 * MATRICES
    train(model, tmp_path, Lora2Callback())
    assert (kept(model.first), kept(model.second)) == (MATRICES, 3 * MATRICES)


def test_one_allocator_of_two_peft_models_needs_one_schedule() -> None:
    allocator = RankAllocator(Two(bert_model(), bert_model(k=3)), TOTAL)
    assert allocator.kept == 6 * MATRICES
    assert allocator.plan.target == 2 * MATRICES
    sentence = "'first' and 'second' both have it, with target_r=1 and target_r=2: make one"
    with pytest.raises(UserError, match=sentence):
        RankAllocator(Two(bert_model(), bert_model(target_r=2)), TOTAL)


def test_a_default_window_and_the_same_in_numbers_are_one_schedule() -> None:
    model = Two(bert_model(tinit=None, tfinal=None), bert_model(tinit=0.5, tfinal=0.2))
    assert RankAllocator(model, TOTAL).plan.final_steps == round(0.2 * TOTAL)


# What has no adapter, or no config


@pytest.mark.parametrize("model", [nn.Linear(2, 2), Own(tiny_bert())], ids=["linear", "own_module"])
def test_model_without_adapters_is_refused_in_one_sentence(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"has no LoRA² adapter of that name; wrap it with"):
        RankAllocator(model, TOTAL)


def test_other_names_and_parts_of_a_model_are_refused() -> None:
    model = Own(bert_model())
    with pytest.raises(UserError, match=r"no LoRA² adapter of that name; choose from 'default'"):
        RankAllocator(model, TOTAL, "other")
    part = model.body.get_base_model().bert
    with pytest.raises(UserError, match="in this BertModel, and its config is not"):
        RankAllocator(part, TOTAL)
    config = model.body.peft_config["default"]
    assert RankAllocator(part, TOTAL, config=config).kept == 3 * MATRICES


@pytest.mark.parametrize("export", [export_lora, export_merged])
def test_export_of_an_own_module_names_the_peft_model_inside_it(
    export: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"a Own is no PeftModel; pass the one inside it, model.bo"):
        export(Own(bert_model()), tmp_path / "export")
    with pytest.raises(UserError, match=r"load the adapter with PeftModel\.from_pretrained"):
        export(tiny_bert(), tmp_path / "export")


def test_compact_adapter_reaches_adapters_inside_an_own_module() -> None:
    model = Own(bert_model())
    for layer in layers_of(model).values():
        layer.lora2_lambda["default"].data[1:] = 0
    compact_adapter(model)
    assert {len(layer.lora2_lambda["default"]) for layer in layers_of(model).values()} == {1}


# SoRA


def sora_model() -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(tiny_bert(), SoraConfig(task_type="SEQ_CLS", r=4, threshold=0.1))


def test_sora_callback_finds_gates_in_modules_of_ones_own(tmp_path: Path) -> None:
    model = Two(sora_model(), sora_model())
    trainer = train(model, tmp_path, SoraCallback())
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    ranks = [
        list(part.peft_config["default"].rank_pattern.values())
        for part in (model.first, model.second)
    ]
    assert sum(map(sum, ranks)) == last["open_gates"] < 2 * 4 * MATRICES
    model.second.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_bert(), tmp_path / "adapter").eval()
    batch = bert_batch()
    assert torch.equal(again(**batch).logits, model.second.eval()(**batch).logits)


def test_gates_of_an_own_module_are_pruned_by_its_names() -> None:
    model = Own(sora_model())
    ranks = prune_gates(model)
    assert len(ranks) == MATRICES
    assert all(name.startswith("body.bert.") for name in ranks)
    assert all(key.startswith("^bert.") for key in model.body.peft_config["default"].rank_pattern)


# SentenceTransformer


@ADAPTERS_OF_TRANSFORMERS
def test_callback_prunes_the_adapter_of_a_sentence_transformer(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    models = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    from command_line import save_tiny_model

    folder = save_tiny_model(tmp_path / "tiny")
    transformer = models.Transformer(str(folder))
    pooling = models.Pooling(transformer.get_embedding_dimension())
    model = sentence_transformers.SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.add_adapter(Lora2Config(**PRUNING))

    class Similarity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
            labels = inputs.pop("labels")
            embedding = self.encoder(inputs)["sentence_embedding"]
            return {"loss": nn.functional.mse_loss(embedding.mean(1), labels.float())}

    matrices = len(layers_of(model))
    assert RankAllocator(model, TOTAL).kept == 3 * matrices
    train(Similarity(), tmp_path, Lora2Callback(), remove_unused_columns=False)
    assert kept(model) == matrices
