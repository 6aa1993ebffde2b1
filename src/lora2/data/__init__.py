"""Tasks to train on: generated ones, the GLUE tasks, the user's own data."""
