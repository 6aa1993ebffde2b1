"""The README.md beside a saved adapter: what it is, what it needs, how to load it."""
