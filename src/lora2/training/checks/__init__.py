"""Checks of options before anything is trained."""
