"""Layers that carry LoRA² adapters beside a frozen base layer."""
