"""The names of the metrics of each kind of task; the first of several is the main metric."""

from __future__ import annotations

CLASS_METRICS = ("accuracy", "f1")
NUMBER_METRICS = ("pearson", "spearman")

TAG_METRICS = ("f1", "precision", "recall", "accuracy")
"""All are metrics of whole entities, except accuracy, which is one of words."""

EXACT_MATCH = "exact_match"
"""Share of prompts that are answered exactly right."""
TOKEN_ACCURACY = "mean_token_accuracy"
"""Share of tokens that are the likeliest ones; TRL's name."""

REWARD_ACCURACY = "rewards/accuracies"
"""Share of rows in which the chosen answer has the higher reward; TRL's name."""
REWARD_MARGIN = "rewards/margins"
"""Mean of how much higher it is; TRL's name."""
PREFERENCE_METRICS = (REWARD_ACCURACY, REWARD_MARGIN)
