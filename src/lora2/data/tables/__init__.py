"""Tables: files and hub datasets read into columns, and records written."""
