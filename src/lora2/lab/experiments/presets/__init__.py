"""Presets: which runs a table of the paper is made of, at the paper's size and at a desk's."""
