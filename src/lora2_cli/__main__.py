"""`python -m lora2_cli` is the command `lora2`, for `torchrun -m` and `accelerate launch -m`."""

import sys

from lora2_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
