"""What a run writes into its folder, and what is read from there."""
