"""Names that PEFT gives to modules, tensors and fields."""

PREFIX = "base_model.model."
"""What tuners such as LoRA put before a name of the base model; prompts put `base_model.`."""

ROWS = "trainable_token_indices"
"""The field of a config with the tokens whose rows are trained."""
ROWS_TENSOR = "token_adapter.trainable_tokens_delta"
"""The name of the trained rows in a file, after that of the embedding."""
Indices = list[int] | dict[str, list[int]]
"""What that field holds: ids of tokens, or these by name of the embedding or head."""


def prefix_of(module_name: str) -> str:
    """Return the prefix of the names of the modules inside a module."""
    return f"{module_name}." if module_name else ""


def target_of(layer_name: str) -> str:
    """Return the target module of a layer, which may be inside of it: attn.base_layer.out_proj."""
    return layer_name.partition(".base_layer.")[0]
