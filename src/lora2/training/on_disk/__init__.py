"""The files that a run writes into its folder, and their reading."""
