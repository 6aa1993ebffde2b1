"""The user's own data: where they are, what their columns mean, and what is wrong with them."""
