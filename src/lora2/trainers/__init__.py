"""Our step in other people's training loops: callbacks, logs, finite checks; imports tuners."""
