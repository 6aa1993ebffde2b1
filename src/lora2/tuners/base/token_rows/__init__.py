"""Rows of an embedding that are trained as they are: PEFT's `trainable_token_indices`."""
