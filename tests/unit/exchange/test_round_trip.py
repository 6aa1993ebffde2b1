"""Every form of an adapter computes the same where lora2 is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file

from lora2 import Lora2Config, export_lora, export_merged
from unit.models import difference, disturb, prune_half
from unit.tiny_transformers import tiny_llama

pytestmark = pytest.mark.slow

# Run by the test and by the process that has no lora2: base models with fixed weights and inputs.
BASES = """
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

def linear():
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 2))

def embedding():
    return nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 2))

def convolution():
    return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 2, 1))

def conv1d():
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 20, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes))

KINDS = {
    "linear": (linear, ["0", "2"], torch.arange(30.0).view(5, 6) / 30),
    "embedding": (embedding, ["0"], torch.arange(15).view(3, 5) % 11),
    "convolution": (convolution, ["0", "2"], torch.linspace(-1, 1, 588).view(3, 4, 7, 7)),
    "conv1d": (conv1d, ["c_attn", "c_proj", "c_fc"], torch.arange(15).view(3, 5) % 11),
}

def base(name):
    torch.manual_seed(0)
    return KINDS[name][0]().eval()

@torch.no_grad()
def output(model, name):
    found = model(KINDS[name][2])
    return found if isinstance(found, torch.Tensor) else found.logits
"""

ELSEWHERE = """
import json, sys, warnings
from pathlib import Path
sys.modules["lora2"] = None
exec(Path("bases.py").read_text())
from peft import PeftModel
from safetensors.torch import load_file
warnings.simplefilter("ignore")
found = {}
for folder in sorted(path for path in Path(".").iterdir() if "-" in path.name):
    name = folder.name.partition("-")[0]
    expected = load_file(folder / "expected.safetensors")
    for file in sorted(folder.glob("*/adapter_config.json")):
        model = PeftModel.from_pretrained(base(name), file.parent).eval()
        adapter = file.parent.name.partition("-")[0]
        pair = output(model, name), expected[adapter]
        found[str(file.parent)] = float((pair[0] - pair[1]).abs().max() / pair[1].abs().max())
    merged = base(name)
    # GPT-2's head is its embedding, and saved once.
    merged.load_state_dict(load_file(folder / "merged.safetensors"), strict=name != "conv1d")
    pair = output(merged, name), expected["default"]
    found[str(folder / "merged")] = float((pair[0] - pair[1]).abs().max() / pair[1].abs().max())
from transformers import AutoModelForCausalLM
checkpoint = AutoModelForCausalLM.from_pretrained("checkpoint").eval()
with torch.no_grad():
    logits = checkpoint(torch.arange(12).view(2, 6) + 3).logits
expected = load_file("checkpoint.safetensors")["logits"]
found["checkpoint"] = float((logits - expected).abs().max() / expected.abs().max())
print(json.dumps(found))
"""

FORMS = {
    "equal": {"k": 3, "init_r": 3},
    "below": {"k": 2, "init_r": 5},
    "above": {"k": 5, "init_r": 2},
    "pruned": {"k": 3, "init_r": 4},
}
space: dict = {}
exec(BASES, space)


def write(folder: Path, name: str, form: str) -> None:
    """Write two adapters on one base model, exported in both forms, and the first one merged."""
    torch.manual_seed(1)
    targets, x = space["KINDS"][name][1:]
    fields = {"target_modules": targets, "lora_alpha": 8.0}
    model = get_peft_model(space["base"](name), Lora2Config(**fields, **FORMS[form])).eval()
    model.add_adapter("other", Lora2Config(**fields, k=1, init_r=4))
    expected = {}
    for seed, adapter in enumerate(("default", "other")):
        disturb(model, adapter, seed)
        if form == "pruned":
            prune_half(model, adapter)
        model.set_adapter(adapter)
        expected[adapter] = space["output"](model, name)
        for compact in (False, True):
            export_lora(
                model, folder / f"{adapter}-{compact}", adapter_name=adapter, compact=compact,
                batch=x,
            )  # fmt: skip
    model.save_pretrained(folder / "adapters")
    reloaded = PeftModel.from_pretrained(space["base"](name), folder / "adapters").eval()
    assert torch.equal(space["output"](reloaded, name), expected["default"])
    model.set_adapter("default")
    merged = model.merge_and_unload()
    assert difference(space["output"](merged, name), expected["default"]) < 1e-5
    for file in (folder / "adapters").rglob("adapter_config.json"):
        file.unlink()
    save_file(expected, folder / "expected.safetensors")
    state = {k: v.contiguous() for k, v in merged.state_dict().items() if k != "lm_head.weight"}
    save_file(state, folder / "merged.safetensors")


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.filterwarnings("ignore:The merged checkpoint has no tokenizer")
def test_every_form_computes_the_same_where_lora2_is_not_installed(tmp_path, capsys) -> None:
    (tmp_path / "bases.py").write_text(BASES)
    for name in space["KINDS"]:
        for form in FORMS:
            write(tmp_path / f"{name}-{form}", name, form)
    model = get_peft_model(tiny_llama(), Lora2Config(task_type="CAUSAL_LM", k=3)).eval()
    disturb(model)
    with torch.no_grad():
        logits = model(torch.arange(12).view(2, 6) + 3).logits
    save_file({"logits": logits}, tmp_path / "checkpoint.safetensors")
    export_merged(model, tmp_path / "checkpoint")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout)
    assert len(differences) == len(space["KINDS"]) * len(FORMS) * 5 + 1
    worst = max(differences, key=differences.__getitem__)
    with capsys.disabled():
        print(f"\nlargest difference of {len(differences)}: {differences[worst]:.1e} ({worst})")
    assert differences[worst] < 1e-5


# Each export in a fork of one process, killed when all is written and being compared.
KILLED = """
import os, signal, sys
from peft import get_peft_model
import lora2
import lora2.exchange.lora, lora2.exchange.merged, lora2.exchange.gguf
from unit.models import disturb
from unit.tiny_transformers import tiny_llama

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

for form in ("lora", "merged", "gguf"):
    child = os.fork()
    if not child:
        lora2.exchange.lora.check_changes = lora2.exchange.gguf.check_changes = die
        lora2.exchange.merged.gc.collect = die
        model = get_peft_model(tiny_llama(), lora2.Lora2Config(task_type="CAUSAL_LM", k=2)).eval()
        disturb(model)
        getattr(lora2, "export_" + form)(model, f"{form}-output")
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


def test_killed_export_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) >= 2
    assert all(name.startswith(".") and name.endswith(".tmp") for name in left)
