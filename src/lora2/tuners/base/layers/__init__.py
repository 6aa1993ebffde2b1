"""Adapted layers: one class for each kind of base layer, and what they share."""
