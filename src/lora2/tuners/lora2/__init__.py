"""LoRA² as a PEFT method: config, layers, tuner, saving; imports the base and mathematics."""
