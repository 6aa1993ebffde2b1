"""Packages that only some parts of lora2 need: imported where used, refused in one sentence."""

import importlib
from typing import Any

from lora2.errors import UserError
from lora2.support.error_text import clause_of


def require(module: str, extra: str) -> Any:
    """Import and return `module`, which `extra` of lora2 installs.

    Returns `Any` because the optional packages are not all typed.

    Raises:
        UserError: the package of `module` is not installed, or refuses what is in the environment.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Another name is missing inside an installed package: that is its own fault to report.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise UserError(
            f"This needs the Python package {package!r}, which is not installed: "
            f"run `pip install 'lora2[{extra}]'`."
        ) from error
    # Matplotlib checks MPLBACKEND when it is imported.
    except ValueError as error:
        raise UserError(
            f"The Python package {package!r} cannot be imported ({clause_of(error)}); correct the "
            "environment variable or the settings that it names."
        ) from error
