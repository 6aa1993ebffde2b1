"""A run that has been trained: its adapter in memory, cut, or added up with others."""
