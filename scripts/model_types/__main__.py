"""Which model types take an adapter on all linear layers: LoRA next to LoRA², on tiny models.

    python -m scripts.model_types docs/results/model-types.md [--only bert llama …]

Builds every model type of transformers' text, vision and speech classes from its configuration,
made small, with random weights, and puts both adapters through the same checks. A type that cannot
be made small in this generic way is named in the page, and says nothing about either method.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import transformers

from lora2.support.files import write_atomically

from .checks import checked
from .page import line, page
from .tiny_models import model_types


def main() -> int:
    """Check all model types, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    outcomes = []
    for kind, model_type, architecture in model_types():
        if arguments.only and model_type not in arguments.only:
            continue
        outcome = checked(kind, model_type, architecture)
        outcomes.append(outcome)
        print(line(outcome), flush=True)
        write_atomically(arguments.page, page(outcomes))
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
