"""The names of the metrics of each kind of task; of several, the first is the main metric."""

from __future__ import annotations

OF_CLASSES = ("accuracy", "f1")
OF_NUMBERS = ("pearson", "spearman")

OF_TAGS = ("f1", "precision", "recall", "accuracy")
"""All are metrics of whole entities, except accuracy, which is one of words."""

EXACT_MATCH = "exact_match"
"""Share of prompts that are answered exactly right."""
TOKEN_ACCURACY = "mean_token_accuracy"
"""Share of tokens that are the likeliest ones; TRL's name."""

REWARD_ACCURACY = "rewards/accuracies"
"""Share of rows in which the chosen answer has the higher reward; TRL's name."""
REWARD_MARGIN = "rewards/margins"
"""Mean of how much higher it is; TRL's name."""
OF_PREFERENCES = (REWARD_ACCURACY, REWARD_MARGIN)
