"""The command line for Python code, whose package `lora2` is imported already."""

import sys

from lora2_cli.commands import COMMANDS
from lora2_cli.main import INTERRUPTED, NOT_READ, USER_MISTAKE, main

__all__ = ["COMMANDS", "INTERRUPTED", "NOT_READ", "USER_MISTAKE", "main"]

if __name__ == "__main__":
    sys.exit(main())
