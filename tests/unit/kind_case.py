"""Models with adapters that change them: one adapter of any form, or three of different sizes."""

import torch
from peft import PeftModel, get_peft_model

from unit.models import Kind, disturb, prune_half


def adapted(kind: Kind, form: str = "exact", **fields: object) -> PeftModel:
    """A model whose adapter changes it."""
    torch.manual_seed(1)
    model = get_peft_model(kind.model(), kind.config(form, **fields)).eval()
    disturb(model)
    if form == "pruned":
        prune_half(model)
    return model


def with_three_adapters(kind: Kind) -> PeftModel:
    """Adapters "default" (k = 3, exact), "wide" (k = 5, penalty) and "thin" (k = 1, none)."""
    torch.manual_seed(1)
    model = get_peft_model(kind.model(), kind.config()).eval()
    model.add_adapter("wide", kind.config("k_above_r", orthogonality="penalty"))
    model.add_adapter("thin", kind.config("k_is_one", orthogonality="none", lora_alpha=7.0))
    for seed, name in enumerate(("default", "wide", "thin")):
        disturb(model, name, seed)
    return model
