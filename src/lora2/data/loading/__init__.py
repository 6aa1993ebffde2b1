"""One entry to the data of each objective: a named task, or the user's own."""
