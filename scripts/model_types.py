"""Which model types take an adapter on all linear layers: LoRA next to LoRA², on tiny models.

    python scripts/model_types.py docs/results/model-types.md [--only bert llama …]

Builds every model type of transformers' text, vision and speech classes from its configuration,
made small, with random weights, and puts both adapters through the same checks. A type that cannot
be made small in this generic way is named in the page, and says nothing about either method.
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

import lora2
from lora2.support.files import write_atomically

# The first class that a model type has is the one that is built.
KINDS = {
    "text": (
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    ),
    "vision": ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",),
    "speech": (
        "MODEL_FOR_CTC_MAPPING_NAMES", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    ),
}  # fmt: skip
CHECKS = (
    "identity", "training", "pruning", "reloading", "merging", "disabling", "export",
    "checkpointing",
)  # fmt: skip
METHODS = ("LoRA", "LoRA²")
# Names of fields of configurations, and a small value of each.
_SMALL: Mapping[int, tuple[str, ...]] = {
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
        "decoder_layers", "num_decoder_layers", "num_encoder_layers", "num_key_value_heads",
        "num_experts_per_tok", "moe_topk", "top_k", "n_group", "topk_group",
        "num_feat_extract_layers", "num_kv_heads", "num_codebooks", "moe_top_k", "moe_k",
    ),
    3: ("conv_depthwise_kernel_size",),
    4: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts",
        "moe_num_experts", "linear_num_value_heads", "linear_num_key_heads",
        "num_image_tokens", "conv_kernel_size",
    ),
    8: (
        "head_dim", "d_kv", "d_head", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim",
        "kv_lora_rank", "q_lora_rank", "patch_size", "state_size", "mamba_d_state", "mamba_d_head",
        "linear_key_head_dim", "linear_value_head_dim", "num_mel_bins", "attention_head_size",
        "kv_channels", "time_step_rank", "rotary_dim", "mamba_n_heads", "sliding_window",
        "attention_window",
    ),
    16: ("moe_intermediate_size", "shared_expert_intermediate_size", "num_conv_pos_embeddings"),
    32: (
        "hidden_size", "d_model", "n_embd", "dim", "embed_dim", "hidden_dim", "d_embed", "emb_dim",
        "embedding_size", "word_embed_proj_dim", "model_dim", "lru_width", "cross_attention_dim",
        "intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim",
        "ffn_hidden_size", "d_inner", "hidden_dim", "image_size", "conv_dim", "mlp_dim",
        "decoder_hidden_size", "attention_hidden_size", "feed_forward_size", "projection_dim",
    ),
    64: (
        "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_source_positions",
        "max_target_positions", "max_sequence_length", "vocab_size", "vocab_size_per_layer_input",
    ),
}  # fmt: skip
_SIZES = {name: size for size, names in _SMALL.items() for name in names}
# Where these small numbers do not fit each other, others are tried.
_VARIANTS: tuple[Mapping[str, Any], ...] = (
    {}, {"num_key_value_heads": 4}, {"num_hidden_layers": 4}, {"num_hidden_layers": 8},
    {"num_heads": 8}, {"head_dim": None},
)  # fmt: skip
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
_MOST_PARAMETERS = 8_000_000
_MOST_SECONDS = 120
_STEPS = 6


@dataclass
class Outcome:
    """What a model type did; one word or sentence for each method and check."""

    model_type: str
    architecture: str
    kind: str
    unbuilt: str | None = None
    cells: dict[str, dict[str, str]] = field(default_factory=dict)


def main() -> int:
    """Check all model types, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    outcomes = []
    for kind, model_type, architecture in model_types():
        if arguments.only and model_type not in arguments.only:
            continue
        outcome = checked(kind, model_type, architecture)
        outcomes.append(outcome)
        print(_line(outcome), flush=True)
        write_atomically(arguments.page, page(outcomes))
    return 0


def model_types() -> Iterator[tuple[str, str, str]]:
    """Yield kind, model type and class, each type once."""
    seen = set()
    for kind, mappings in KINDS.items():
        for mapping in mappings:
            for model_type, names in getattr(modeling_auto, mapping).items():
                name = names if isinstance(names, str) else names[0]
                if model_type not in seen:
                    seen.add(model_type)
                    yield kind, model_type, name


def checked(kind: str, model_type: str, architecture: str) -> Outcome:
    """Put both methods through all checks on one model type."""
    outcome = Outcome(model_type, architecture, kind)
    try:
        with time_limit(_MOST_SECONDS):
            model, inputs = tiny_model(architecture, kind)
    except Exception as error:
        outcome.unbuilt = _sentence(error)
        return outcome
    for method in METHODS:
        outcome.cells[method] = {}
        for check in CHECKS:
            try:
                with time_limit(_MOST_SECONDS):
                    said = CHECKED_BY[check](copy.deepcopy(model), inputs, method)
            except Exception as error:
                said = _sentence(error)
            outcome.cells[method][check] = said
    return outcome


# Models.


def tiny_model(architecture: str, kind: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a small random model in evaluation mode, and inputs that it takes.

    Raises:
        ValueError: it is not small, or computes something else each time.
    """
    failure: Exception | None = None
    for variant in _VARIANTS:
        try:
            return _tiny_model(architecture, kind, variant)
        except TimeoutError:
            raise
        except Exception as error:
            # The first says most.
            failure = failure or error
    assert failure is not None
    raise failure


def _tiny_model(
    architecture: str, kind: str, variant: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Tensor]]:
    model_class = getattr(transformers, architecture)
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class.config_class, variant)).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _MOST_PARAMETERS:
        raise ValueError(f"{count:,} parameters")
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            nn.init.normal_(parameter, std=0.02)
    last: Exception | None = None
    for inputs in inputs_for(kind, model):
        try:
            first, second = (outputs(model, inputs) for _ in range(2))
        except Exception as error:
            last = error
            continue
        if not torch.equal(first, second):
            raise ValueError("computes something else each time")
        if not first.isfinite().all():
            raise ValueError("computes NaN or infinity")
        return model, inputs
    raise ValueError(f"takes none of the inputs tried: {last}") from last


def tiny_config(config_class: Any, variant: Mapping[str, Any]) -> Any:
    """Return a configuration with small numbers in its fields, and in those of its parts."""
    usual = config_class()
    fields: dict[str, Any] = {}
    for name, value in vars(usual).items():
        if name in getattr(config_class, "sub_configs", {}):
            if value is not None:
                fields[name] = tiny_config(type(value), variant).to_dict()
        elif name in variant:
            fields[name] = variant[name]
        elif name == "use_cache":
            fields[name] = False
        elif name in _TOKENS and isinstance(value, int):
            fields[name] = _TOKENS[name]
        elif name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = min(value, _SIZES[name])
        elif name == "attention_types":
            fields[name] = [[["global", "local"], 1]]
        elif name == "conv_dim" and not isinstance(value, int):
            fields[name] = (32, 32)
        elif name in ("conv_kernel", "conv_stride") and not isinstance(value, int):
            fields[name] = tuple(value[:2])
        elif name == "depths":
            fields[name] = [1] * len(value)
        elif name in ("hidden_sizes", "embed_dims", "encoder_hidden_sizes") and value:
            fields[name] = [8 * 2**position for position in range(len(value))]
    return config_class(**fields)


def inputs_for(kind: str, model: Any) -> Iterator[dict[str, Tensor]]:
    """Yield inputs to try."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 50, (2, 8), generator=generator)
    if kind == "text":
        yield {"input_ids": tokens}
        yield {"input_ids": tokens, "decoder_input_ids": tokens}
        return
    if kind == "vision":
        for size in (32, 64, 224):
            yield {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}
        return
    sound = torch.randn(2, 4000, generator=generator)
    decoder = {"decoder_input_ids": tokens}
    yield {"input_values": sound}
    yield {"input_values": sound} | decoder
    bins = getattr(model.config, "num_mel_bins", 80)
    for length in (32, 128, 3000):
        features = torch.randn(2, length, bins, generator=generator)
        for shaped in (features, features.mT.contiguous()):
            yield {"input_features": shaped}
            yield {"input_features": shaped} | decoder
            yield {"input_values": shaped}


def outputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what a model computes."""
    with torch.no_grad():
        return _computed(model, inputs)


def _computed(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    result = model(**inputs)
    held = result.values() if isinstance(result, Mapping) else result
    floating = (t for t in held if isinstance(t, Tensor) and t.is_floating_point())
    computed: Tensor = result["logits"] if "logits" in result else next(floating)
    return computed.float()


# Checks: each returns "yes", or what is otherwise.


def adapted(model: nn.Module, method: str, name: str = "default") -> Any:
    """Return a model with an adapter of a method on all linear layers."""
    torch.manual_seed(3)
    if method == "LoRA":
        config: Any = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    else:
        config = lora2.Lora2Config(k=4, init_r=4, target_r=2, target_modules="all-linear")
    return peft.get_peft_model(model, config, adapter_name=name)


def trained(model: Any, inputs: Mapping[str, Tensor], prunes: bool = False) -> Any:
    """Train an adapter for a few steps, in evaluation mode, since dropout is not the question."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    allocator = lora2.RankAllocator(model, total_steps=_STEPS) if prunes else None
    for _ in range(_STEPS):
        loss = (_computed(model, inputs) - 1).square().mean()
        if not loss.isfinite():
            raise ValueError("the loss is NaN or infinite")
        loss.backward()
        optimizer.step()
        if allocator is not None:
            allocator.step()
        optimizer.zero_grad()
    return model


def identity(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """At the start the adapter changes nothing."""
    before = outputs(model, inputs)
    return _same(outputs(adapted(model, method).eval(), inputs), before)


def training(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """Training changes what the model computes."""
    before = outputs(model, inputs)
    after = outputs(trained(adapted(model, method).eval(), inputs), inputs)
    return "no change" if torch.allclose(before, after, atol=1e-7) else "yes"


def pruning(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """Half of the singular values are left."""
    if method == "LoRA":
        return "–"
    model = trained(adapted(model, method).eval(), inputs, prunes=True)
    values = [p for name, p in model.named_parameters() if "lora2_lambda" in name]
    kept, count = (sum(map(how, values)) for how in (torch.count_nonzero, torch.numel))
    return "yes" if kept == count // 2 else f"{int(kept)} of {int(count)} kept"


def reloading(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """A saved adapter computes the same on a new base model."""
    again = copy.deepcopy(model)
    model = trained(adapted(model, method).eval(), inputs)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = peft.PeftModel.from_pretrained(again, folder).eval()
    return _same(outputs(loaded, inputs), outputs(model, inputs))


def merging(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """The merged model computes the same."""
    model = trained(adapted(model, method).eval(), inputs)
    before = outputs(model, inputs)
    return _same(outputs(model.merge_and_unload(), inputs), before)


def disabling(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """With the adapter off, the model computes what the base model does."""
    before = outputs(model, inputs)
    model = trained(adapted(model, method).eval(), inputs)
    with model.disable_adapter():
        return _same(outputs(model, inputs), before)


def export(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """Written as a LoRA, the adapter computes the same under PEFT's LoRA."""
    if method == "LoRA":
        return "–"
    again = copy.deepcopy(model)
    model = trained(adapted(model, method).eval(), inputs)
    with tempfile.TemporaryDirectory() as folder:
        lora2.export_lora(model, Path(folder) / "lora", batch=dict(inputs))
        loaded = peft.PeftModel.from_pretrained(again, Path(folder) / "lora").eval()
    return _same(outputs(loaded, inputs), outputs(model, inputs))


def checkpointing(model: nn.Module, inputs: Mapping[str, Tensor], method: str) -> str:
    """With gradient checkpointing the gradients are the same."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        return "–"
    model = trained(adapted(model, method), inputs).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    plain = _gradients(model, inputs)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = _gradients(model, inputs)
    differs = max(
        float((again[name] - gradient).abs().max() / (gradient.abs().max() + 1e-6))
        for name, gradient in plain.items()
    )
    return "yes" if differs < 1e-3 else f"gradients differ by {differs:.0e}"


CHECKED_BY: Mapping[str, Callable[[nn.Module, Mapping[str, Tensor], str], str]] = {
    check: globals()[check] for check in CHECKS
}


def _gradients(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(5)
    (_computed(model, inputs) - 1).square().mean().backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: gradient.clone() for name, gradient in named.items()}


def _same(one: Tensor, other: Tensor) -> str:
    scale = float(other.abs().max()) + 1e-6
    differs = float((one - other).abs().max()) / scale
    return "yes" if differs < 1e-4 else f"differs by {differs:.0e}"


# The page.


def page(outcomes: list[Outcome]) -> str:
    """Return the page: what was built, a table, and the sentences of its cells."""
    built = [outcome for outcome in outcomes if outcome.unbuilt is None]
    unbuilt = [outcome.model_type for outcome in outcomes if outcome.unbuilt is not None]
    behind = [o.model_type for o in built if _behind(o)]
    sentences = [sentence for outcome in built for sentence in _sentences(outcome)]
    return "\n".join(
        [
            "# Model types",
            "",
            'Adapters on all linear layers (`target_modules="all-linear"`) of tiny random models, '
            "one of each model type of transformers' text, vision and speech classes that could be "
            "made small: `python scripts/model_types.py docs/results/model-types.md`, "
            f"transformers {transformers.__version__}, PEFT {peft.__version__}, torch "
            f"{torch.__version__.partition('+')[0]}.",
            "",
            f"* {len(built)} model types were built. LoRA² fails a check that PEFT's LoRA passes "
            f"on {', '.join(behind) or 'none'}.",
            "* A cell has LoRA's result, then LoRA²'s. – means that the model or the method has no "
            "such thing. What is not a yes is below the table; where both fail, the model or PEFT "
            "is the reason.",
            "",
            f"| model type | kind | {' | '.join(CHECKS)} |",
            f"|{'---|' * (len(CHECKS) + 2)}",
            *(
                f"| {o.model_type} | {o.kind} | "
                + " | ".join(_cell(o, check) for check in CHECKS)
                + " |"
                for o in built
            ),
            "",
            *sentences,
            "",
            f"Not made small by this script, so nothing is said of them: {', '.join(unbuilt)}.",
            "",
        ]
    )


def _sentences(outcome: Outcome) -> Iterator[str]:
    """Yield what is no yes, each once, with the methods and checks that it is said of."""
    said_of: dict[str, dict[str, list[str]]] = {}
    for method, cells in outcome.cells.items():
        for check, said in cells.items():
            if said not in ("yes", "–"):
                said_of.setdefault(said, {}).setdefault(method, []).append(check)
    for said, methods in said_of.items():
        where = "; ".join(f"{method}: {', '.join(checks)}" for method, checks in methods.items())
        yield f"* {outcome.model_type} ({where}): {said}"


def _cell(outcome: Outcome, check: str) -> str:
    words = [outcome.cells[method][check] for method in METHODS]
    return " / ".join(word if word in ("yes", "–") else "no" for word in words)


def _behind(outcome: Outcome) -> list[str]:
    """Return the checks that LoRA² fails, and LoRA passes or, where it has none, would reach."""
    of_lora, of_lora2 = (outcome.cells[method] for method in METHODS)
    instead = {"pruning": "training", "export": "reloading"}
    return [
        check
        for check in CHECKS
        if of_lora2[check] not in ("yes", "–")
        and of_lora[check if of_lora[check] != "–" else instead.get(check, check)] in ("yes", "–")
    ]


def _line(outcome: Outcome) -> str:
    if outcome.unbuilt is not None:
        return f"{outcome.model_type}: not built: {outcome.unbuilt}"
    behind = {check: outcome.cells["LoRA²"][check] for check in _behind(outcome)}
    ahead = {c: w for c, w in outcome.cells["LoRA"].items() if w not in ("yes", "–")}
    return f"{outcome.model_type}: {behind or 'ok'}{f', LoRA: {ahead}' if ahead else ''}"


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {text[:160]}"


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
