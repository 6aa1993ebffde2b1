"""Adapters in a model: put in, found, watched and taken out."""
