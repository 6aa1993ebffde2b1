"""What a run trains on: the kinds of tasks, and what tells their rows from others."""
