"""Out of training: an adapter as a plain LoRA, as weights of its base model, and as GGUF."""
