"""The subcommands of `lora2`, what each is for, and the answers that need none of them."""

from __future__ import annotations

from difflib import get_close_matches

COMMANDS = {
    "train": "train an adapter; without options, the packaged model on agreement",
    "evaluate": "evaluate a run's adapter again, on its validation data or another file",
    "predict": "label texts with a run's adapter",
    "generate": "write texts with a run's adapter on a language model",
    "export": "write a run's adapter as a LoRA, merged into the weights, or for llama.cpp",
    "combine": "write the weighted sum of several adapters",
    "import": "turn a trained LoRA or AdaLoRA adapter into one of LoRA²",
    "inspect": "show what a run kept, its budget and its loss",
    "reproduce": "make a table of the paper from run records, and the missing runs before",
    "tune": "search a method's learning rate, with as many trials as every other",
    "bench": "measure speed and memory next to PEFT's LoRA and AdaLoRA",
    "params": "count an adapter's parameters without loading weights",
}


def usage() -> str:
    """Return the help of `lora2` itself."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lora2 COMMAND [options]",
            "",
            "Multi-scale low-rank adapters (LoRA²) for Hugging Face models.",
            "",
            *lines,
            "",
            "`lora2 COMMAND --help` explains the options of a command.",
        ]
    )


def unknown(name: str) -> str:
    """Return the sentence about a command that does not exist."""
    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
    return f"{name!r} is not a command of lora2; {hint}"
