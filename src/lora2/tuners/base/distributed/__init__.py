"""Tensors of which several processes hold parts: whole values, writing, agreement."""
