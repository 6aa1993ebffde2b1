"""`lora2 bench`: speed and memory of LoRA² and of PEFT's methods, measured side by side."""
