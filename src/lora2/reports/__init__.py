"""What a run looks like to people: tables, progress and figures."""
