"""The README.md of a saved adapter: what it is, what it needs, how to load it."""
