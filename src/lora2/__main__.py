"""`python -m lora2` is the command `lora2`."""

import sys

from lora2_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
