"""`lora2 bench`: speed and memory of LoRA² beside PEFT's methods, measured side by side."""
