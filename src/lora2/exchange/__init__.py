"""Adapters in other forms, out and in: LoRA, merged weights, GGUF; imports the tuners."""
