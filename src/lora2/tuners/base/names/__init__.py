"""Names of adapters, and of modules in a model that PEFT or torch.compile has wrapped."""
