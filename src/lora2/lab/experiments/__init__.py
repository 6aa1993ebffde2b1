"""Experiments as data: run descriptions, their records, and tables and figures made from them."""
