"""The label of a place that is not learnt."""

IGNORED = -100
"""torch and transformers use this value, and neither has a name for it."""
