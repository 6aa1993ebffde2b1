"""Names of what `Lora2Callback` adds to the trainer's logs, for those who read them."""

TASK_LOSS = "task_loss"
PENALTY = "penalty"
BUDGET = "budget"
KEPT_VALUES = "kept_singular_values"
KEPT_PARAMETERS = "kept_parameters"
"""What is kept in the unit of a budget in parameters; there is none of another budget."""
