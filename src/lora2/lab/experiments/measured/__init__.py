"""Tables of times, which are measured in turns."""
