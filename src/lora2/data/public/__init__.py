"""Public data sets with a form of their own: GLUE and SNIPS."""
