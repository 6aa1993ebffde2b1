"""What PEFT puts in front of the names of a base model's modules and tensors."""

PREFIX = "base_model.model."
"""What tuners such as LoRA and LoRA² put there; prompts put `base_model.`."""
