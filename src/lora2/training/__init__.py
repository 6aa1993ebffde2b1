"""One training run: its arguments, its metrics and the folder it writes."""
