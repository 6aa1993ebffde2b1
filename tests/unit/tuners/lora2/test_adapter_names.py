"""Names that an adapter cannot have: of a sum of adapters, and beside another adapter."""

import pytest
from peft import get_peft_model, get_peft_model_state_dict, inject_adapter_in_model

from lora2 import Lora2Config, SoraConfig, UserError
from unit.kind_case import with_three_adapters
from unit.models import ATTENTION, LINEAR, Kind, layers_of
from unit.tiny_transformers import tiny_bert, tiny_roberta


def test_a_sum_of_a_wrong_name_leaves_nothing() -> None:
    model = with_three_adapters(LINEAR)
    for _ in range(2):
        with pytest.raises(UserError, match=r"adapter_name='v1\.0'"):
            model.add_weighted_adapter(["default", "wide"], [1.0, 1.0], "v1.0")
        assert "v1.0" not in model.peft_config


@pytest.mark.parametrize("names", [("default", "query"), ("query", "default")])
def test_an_adapter_is_not_named_like_a_module_beside_another(names: tuple[str, str]) -> None:
    """PEFT would leave the module out of the other adapter's file."""
    model = get_peft_model(tiny_bert(), Lora2Config(task_type="SEQ_CLS"), names[0])
    with pytest.raises(UserError, match="adapter_name='query' is the name of a module"):
        model.add_adapter(names[1], Lora2Config(task_type="SEQ_CLS"))
    assert list(model.peft_config) == [names[0]]
    assert all(names[1] not in layer.lora2_states for layer in layers_of(model).values())


@pytest.mark.parametrize("kind", [LINEAR, ATTENTION], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", ["v", "u", "lambda", "U", "V"])
def test_an_adapter_is_not_named_like_a_factor_beside_another(kind: Kind, name: str) -> None:
    for names in (("default", f"lora2_{name}"), (f"lora2_{name}", "default")):
        model = get_peft_model(kind.model(), kind.config(), names[0])
        saved = get_peft_model_state_dict(model, adapter_name=names[0])
        with pytest.raises(UserError, match=f"adapter_name='lora2_{name}' is the name of a module"):
            model.add_adapter(names[1], kind.config())
        assert list(model.peft_config) == [names[0]]
        assert get_peft_model_state_dict(model, adapter_name=names[0]).keys() == saved.keys()


def test_nor_like_the_base_model_in_peft() -> None:
    """PEFT would put the tensors of both adapters into the other adapter's file."""
    model = get_peft_model(LINEAR.model(), LINEAR.config())
    with pytest.raises(UserError, match="adapter_name='model' is the name of a module"):
        model.add_adapter("model", LINEAR.config())
    assert list(model.peft_config) == ["default"]


@pytest.mark.parametrize("name", ["sora_A", "sora_gate", "sora_B"])
def test_nor_like_a_tensor_of_another_method(name: str) -> None:
    model = get_peft_model(LINEAR.model(), SoraConfig(target_modules=["lin0"]))
    with pytest.raises(UserError, match=f"adapter_name='{name}' is the name of a module"):
        model.add_adapter(name, SoraConfig(target_modules=["lin0"]))


@pytest.mark.parametrize("name", ["base_layer", "out_proj"])
def test_nor_like_a_module_on_the_way_to_a_layer_inside_another(name: str) -> None:
    model = get_peft_model(ATTENTION.model(), ATTENTION.config())
    with pytest.raises(UserError, match=f"adapter_name='{name}' is the name of a module"):
        model.add_adapter(name, ATTENTION.config())


# PEFT's, of the second adapter and of its end.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
@pytest.mark.filterwarnings("ignore:Adapter encoder was active:UserWarning")
def test_nor_in_a_model_without_peft() -> None:
    model = tiny_bert()
    inject_adapter_in_model(Lora2Config(k=2, target_modules=["query"]), model, "default")
    with pytest.raises(UserError, match="adapter_name='encoder' is the name of a module"):
        inject_adapter_in_model(Lora2Config(k=2, target_modules=["query"]), model, "encoder")
    assert all("encoder" not in layer.lora2_states for layer in layers_of(model).values())


def test_an_adapter_is_not_named_like_a_part_of_a_head_beside_another() -> None:
    model = get_peft_model(tiny_roberta(), Lora2Config(task_type="SEQ_CLS"))
    with pytest.raises(UserError, match="adapter_name='out_proj' is the name of a module"):
        model.add_adapter("out_proj", Lora2Config(task_type="SEQ_CLS"))
    get_peft_model_state_dict(model)
