"""The trainers of all runs, their arguments and their callbacks."""
