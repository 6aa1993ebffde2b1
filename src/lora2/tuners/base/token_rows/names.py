"""Names of the trained rows: of the config field, of the saved tensor and of the field's type."""

FIELD = "trainable_token_indices"
SAVED_NAME = "token_adapter.trainable_tokens_delta"
"""The name of the rows in a file of PEFT's, after that of the embedding."""
Indices = list[int] | dict[str, list[int]]
