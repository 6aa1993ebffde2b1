"""Pretrained models and their tokenizers: where they are, how they load, what they write."""
