"""What is compared is what the table says."""

import dataclasses
from itertools import repeat

import pytest
import torch
from peft.tuners.adamss import AdamssModel
from peft.tuners.tuners_utils import BaseTunerLayer

from benchmark_case import BATCH, SIZE, TINY, TINY_BERT, options, prepare
from lora2 import UserError
from lora2.lab.benchmarks.adapted_models import ADAPTER_NAME, adapted_modules
from lora2.lab.benchmarks.dense import DenseLora2Linear
from lora2.lab.benchmarks.methods import ALL_METHODS, BENCHMARK_METHODS, prepare_all
from lora2.lab.benchmarks.timing import training_step
from lora2.lab.benchmarks.workloads import WORKLOADS
from lora2.tuners.base.config.targets import DEFAULT_TARGET_MODULES
from lora2.tuners.lora2.layer import Lora2Layer
from unit.models import disturb, layers_of

BY_NAME = {"argvalues": TINY, "ids": [workload.name for workload in TINY]}


def is_of_adapter(name):
    return any(part.startswith(("lora_", "lora2_")) for part in name.split("."))


@pytest.mark.parametrize("workload", **BY_NAME)
def test_the_floor_has_no_adapter_and_trains_the_head(workload):
    model = prepare("floor", workload=workload)["floor"].model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith(workload.head) for name in trained)


@pytest.mark.parametrize("workload", **BY_NAME)
def test_the_floors_backward_pass_reaches_every_adapted_matrix_and_goes_no_further(workload):
    floor = prepare("floor", workload=workload)["floor"]
    names = adapted_modules(floor.model, workload, SIZE)
    assert len(names) == workload.layers * workload.matrices_per_layer
    reached, needed = {}, {}

    def watch(name, args, output):
        reached[name] = False
        needed[name] = args[0].requires_grad
        output.register_hook(lambda gradient: reached.update({name: True}))

    for name in names:
        module = floor.model.get_submodule(name)
        module.register_forward_hook(lambda m, args, output, name=name: watch(name, args, output))
    floor.loss(workload.batch(BATCH, "cpu")).backward()
    assert all(reached.values())
    # The first layer's input is what the frozen embedding gives: nobody needs its gradient.
    assert not needed[names[0]]
    assert needed[names[-1]]


@pytest.mark.parametrize("workload", **BY_NAME)
def test_all_methods_share_the_storage_of_the_base_weights(workload):
    storages = {}
    for name, prepared in prepare(*BENCHMARK_METHODS, workload=workload).items():
        frozen = [p for p in prepared.model.parameters() if not p.requires_grad and p.numel() > 1]
        storages[name] = {p.data_ptr() for p in frozen}
    assert len(storages["floor"]) > 10
    assert all(own == storages["floor"] for own in storages.values())


@pytest.mark.parametrize("workload", **BY_NAME)
def test_every_method_trains_a_head_of_its_own_beside_its_adapter(workload):
    heads = []
    for name, prepared in prepare(*BENCHMARK_METHODS, workload=workload).items():
        trained = {n: p for n, p in prepared.model.named_parameters() if p.requires_grad}
        head = {n: p.data_ptr() for n, p in trained.items() if not is_of_adapter(n)}
        assert all(any(part in n for part in workload.head) for n in head)
        assert (len(trained) > len(head)) == (name != "floor")
        heads += [set(head.values())]
    assert all(one.isdisjoint(other) for one in heads for other in heads if one is not other)


@pytest.mark.parametrize("workload", **BY_NAME)
@pytest.mark.parametrize("name", BENCHMARK_METHODS)
def test_a_step_moves_every_trained_parameter_that_has_a_gradient(name, workload):
    prepared = prepare(name, workload=workload)[name]
    before = [parameter.detach().clone() for parameter in prepared.parameters]
    step = training_step(prepared, repeat(workload.batch(BATCH, "cpu")))
    step()
    step()
    moved = [not torch.equal(a, b) for a, b in zip(before, prepared.parameters, strict=True)]
    assert all(moved)


@pytest.mark.parametrize("workload", **BY_NAME)
def test_methods_adapt_the_same_matrices_with_the_sizes_asked_for(workload):
    prepared = prepare("lora", "adalora", "lora2", workload=workload)
    adapted = {}
    for name, attribute in (("lora", "lora_A"), ("adalora", "lora_A"), ("lora2", "lora2_v")):
        adapted[name] = {
            module_name.removeprefix("base_model.").removeprefix("model.")
            for module_name, module in prepared[name].model.named_modules()
            if hasattr(module, attribute)
        }
    assert adapted["lora"] == adapted["adalora"] == adapted["lora2"]
    assert len(adapted["lora"]) == workload.layers * workload.matrices_per_layer
    widths = {
        name: {p.shape[0] for n, p in prepared[name].model.named_parameters() if ".lora_A." in n}
        for name in ("lora", "adalora")
    }
    assert widths == {"lora": {SIZE.k}, "adalora": {round(1.5 * SIZE.k)}}
    factors = [
        layer.parameters_of("default") for layer in layers_of(prepared["lora2"].model).values()
    ]
    assert {(f["u"].shape, f["lam"].shape) for f in factors} == {((SIZE.k, SIZE.r), (SIZE.r,))}


def kept_by_adalora(prepared):
    return sum(int((p != 0).sum()) for n, p in prepared.model.named_parameters() if "lora_E" in n)


def test_adalora_and_lora2_are_budgeting_in_every_measured_step():
    steps = 4
    methods = prepare("adalora", "lora2", "lora2-penalty", "lora2-dense", steps=steps)
    batch = TINY_BERT.batch(BATCH, "cpu")
    matrices = TINY_BERT.layers * TINY_BERT.matrices_per_layer
    for name, prepared in methods.items():
        is_adalora = name == "adalora"
        step = training_step(prepared, repeat(batch))
        kept = []
        for _ in range(steps):
            step()
            kept.append(kept_by_adalora(prepared) if is_adalora else prepared.allocator.kept)
        assert kept[0] < matrices * (round(1.5 * SIZE.k) if is_adalora else SIZE.r)
        # Nearly no values are left to prune near the end, but the schedule has not ended.
        assert kept == sorted(kept, reverse=True)
        assert len(set(kept)) > 2
    allocator = methods["adalora"].model.rankallocator
    assert all(allocator.budget_schedule(step)[1] for step in range(1, steps + 1))
    assert allocator.peft_config.total_step > steps
    assert not methods["lora2"].allocator.finished
    assert methods["lora2"].allocator.plan.interval == 1


def test_adaloras_own_penalty_is_in_its_loss():
    adalora = prepare("adalora")["adalora"]
    batch = TINY_BERT.batch(BATCH, "cpu")
    with_penalty = adalora.loss(batch)
    adalora.adapted.peft_config["default"].orth_reg_weight = 0.0
    assert with_penalty > adalora.loss(batch)


def test_dense_gives_the_output_and_gradients_of_lora2():
    methods = prepare("lora2-penalty", "lora2-dense")
    batch = TINY_BERT.batch(BATCH, "cpu")
    losses, gradients = [], []
    for prepared in methods.values():
        disturb(prepared.model)
        loss = prepared.loss(batch)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(
            {n: p.grad for n, p in prepared.model.named_parameters() if p.requires_grad}
        )
    assert all(
        isinstance(m, DenseLora2Linear)
        for m in methods["lora2-dense"].model.modules()
        if isinstance(m, Lora2Layer)
    )
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())


@pytest.mark.parametrize("name", WORKLOADS)
def test_users_models_have_head_and_adapted_matrices(name):
    workload = WORKLOADS[name]
    with torch.device("meta"):
        model = workload.build("float32", "meta")
    assert any(p.requires_grad for p in model.parameters())
    targets = tuple(DEFAULT_TARGET_MODULES[workload.model_type])
    adapted = [n for n, _ in model.named_modules() if n.endswith(targets) and ".layer" in n]
    of_experts = sum(
        parameter.shape[0]
        for name, parameter in model.named_parameters()
        if workload.parameters and name.endswith(workload.parameters)
    )
    assert len(adapted) + of_experts == workload.layers * workload.matrices_per_layer
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(
        {
            "minilm": 22.7,
            "deberta": 184.4,
            "llama": 134.5,
            "decoder-504": 214.1,
            "mixtral": 108.4,
        }[name],
        rel=0.01,
    )


# PEFT's other methods, by the names of `lora2 train`


def test_unless_they_are_named_no_more_methods_are_measured_than_before():
    assert options().method_names == list(BENCHMARK_METHODS)
    assert {"miss", "dora", "adamss"} <= ALL_METHODS.keys() - BENCHMARK_METHODS.keys()


def test_methods_that_do_not_adapt_experts_are_left_out_where_there_are_any():
    experts = dataclasses.replace(TINY_BERT, name="experts", parameters=("up_proj",))
    model, size = torch.nn.Linear(1, 1), SIZE
    with pytest.raises(UserError, match=r"methods: none of them adapts the weights of experts's"):
        prepare_all(model, experts, size, 1, ["miss", "adalora"])


def test_zeros_in_memory_compute_what_a_finished_adapter_computes():
    whole, finished = (prepare(name)[name] for name in ("lora2-zeros", "lora2-half"))
    batch = TINY_BERT.batch(BATCH, "cpu")
    losses = [method.loss(batch).item() for method in (whole, finished)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    sizes = [sum(each.numel() for each in method.parameters) for method in (whole, finished)]
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize("name", ["hira", "miss"])
def test_another_method_of_peft_has_rank_k_whatever_its_default_is(name):
    config = prepare(name)[name].adapted.peft_config[ADAPTER_NAME]
    assert config.r == SIZE.k


def test_what_peft_calls_r_and_is_no_rank_is_left_as_it_is():
    assert prepare("vera")["vera"].adapted.peft_config[ADAPTER_NAME].r == 256


@pytest.mark.parametrize("workload", **BY_NAME)
@pytest.mark.parametrize("name", ["dora", "hira", "delora"])
def test_another_method_of_peft_adapts_the_same_matrices(name, workload):
    model = prepare(name, workload=workload)[name].model
    names = adapted_modules(workload.build("float32", "cpu"), workload, SIZE)
    adapted = [
        module.removeprefix("base_model.model.")
        for module, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    assert adapted == names


def test_methods_with_two_factors_of_rank_k_train_as_much_as_lora():
    lora, rslora, hira, miss = (
        sum(parameter.numel() for parameter in prepare(name)[name].parameters)
        for name in ("lora", "rslora", "hira", "miss")
    )
    assert lora == rslora == hira > miss


def test_a_method_that_peft_calls_after_each_step_is_called(monkeypatch):
    called = []
    monkeypatch.setattr(AdamssModel, "update_and_allocate", lambda self, step: called.append(step))
    prepared = prepare("adamss")["adamss"]
    step = training_step(prepared, repeat(TINY_BERT.batch(BATCH, "cpu")))
    step()
    step()
    assert called == [1, 2]


def test_a_method_that_does_not_suit_the_model_is_one_sentence():
    with pytest.raises(UserError, match=r"methods: PEFT cannot put c3a on tiny \(.*; leave it out"):
        prepare("c3a")
