"""Tables as data: before anything has run, and from records."""
