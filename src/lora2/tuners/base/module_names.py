"""What PEFT puts in front of the names of a base model's modules and tensors."""

PREFIX = "base_model.model."
"""Of PEFT's tuners, such as LoRA and LoRA²."""
