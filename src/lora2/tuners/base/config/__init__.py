"""Configs: their fields, what is wrong with them, and which modules they choose."""
