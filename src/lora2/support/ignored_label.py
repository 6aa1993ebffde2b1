"""The label of a place that is not learnt."""

IGNORED = -100
"""As in torch and transformers, neither of which names it."""
