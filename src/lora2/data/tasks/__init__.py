"""The kinds of tasks that a run trains on, and digests of their rows."""
